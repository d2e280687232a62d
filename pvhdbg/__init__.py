"""pvhdbg"""
