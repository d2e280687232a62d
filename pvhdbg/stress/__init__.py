"""`pvhdbg stress`: change what the ABI leaves open at the entry, and see whether the guest still boots."""
