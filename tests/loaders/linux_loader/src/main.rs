//! What rust-vmm's linux-loader makes of each ELF file whose path is a line of standard input, in a guest of 64 MiB.
//!
//! A line for each: `loaded E_ENTRY PVH_ENTRY|-`, or `refused MESSAGE`. The first argument is the lowest e_entry that is accepted.

use std::env;
use std::fs::File;
use std::io::{self, BufRead};

use linux_loader::loader::elf::{Elf, PvhBootCapability};
use linux_loader::loader::KernelLoader;
use vm_memory::{Address, GuestAddress, GuestMemoryMmap};

const MEMORY: usize = 64 << 20;

fn main() {
    let lowest = env::args().nth(1).map(|text| GuestAddress(text.parse().expect("an address")));
    for line in io::stdin().lock().lines() {
        let mut file = File::open(line.expect("a line")).expect("a file");
        let memory = GuestMemoryMmap::<()>::from_ranges(&[(GuestAddress(0), MEMORY)]).expect("memory");
        match Elf::load(&memory, None, &mut file, lowest) {
            Ok(found) => {
                let pvh = match found.pvh_boot_cap {
                    PvhBootCapability::PvhEntryPresent(entry) => format!("{:#x}", entry.raw_value()),
                    _ => "-".to_string(),
                };
                println!("loaded {:#x} {}", found.kernel_load.raw_value(), pvh);
            }
            Err(error) => println!("refused {}", error),
        }
    }
}
