//! Writes the corpus that is checked in: `cargo run --example seeds`, from this directory.
use std::fs;
use std::path::Path;

use vmm::testing::kernel_image::{BzImage, Compression, Elf};

fn main() -> std::io::Result<()> {
    let directory = Path::new("corpus/kernel_loading");
    fs::create_dir_all(directory)?;
    let small = Elf::new(0x100_0000)
        .load(0x100_0000, &[0xf4; 64], 0x2000)
        .load(0x200_0000, &[0; 64], 64)
        .pvh(0x100_0000)
        .build();
    fs::write(directory.join("vmlinux"), &small)?;
    fs::write(directory.join("bzimage-whole"), BzImage::new(b"?").build())?;
    for compression in Compression::ALL {
        let name = format!("{compression:?}").to_lowercase();
        let image = BzImage::new(&compression.payload(&small)).build();
        fs::write(directory.join(format!("bzimage-{name}")), image)?;
        let file = compression.compress(&small);
        fs::write(directory.join(format!("vmlinux-{name}")), file)?;
    }
    Ok(())
}
