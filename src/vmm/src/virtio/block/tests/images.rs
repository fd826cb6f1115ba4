//! What kinds of image there are.
use std::os::unix::fs::OpenOptionsExt;

use super::*;

#[test]
fn the_configuration_tells_of_the_image() {
    let bench = Bench::new();
    let block = block(options(&bench.file, true, Cache::WriteThrough));
    assert_eq!(u64::from(config(&block, 0)), SECTORS);
    // Read-only, and without flushes, which it does not need.
    assert_ne!(block.features() & (1 << 5), 0);
    assert_eq!(block.features() & (1 << 9), 0);
    assert_eq!(block.features() & (1 << 12), 0);
}

#[test]
fn an_image_that_was_cut_short_is_an_error_and_not_a_hang() {
    let bench = Bench::new();
    bench.file.set_len(10 * 512).unwrap();
    assert_eq!(bench.ask(READ, 9, 512), (0, 513));
    assert_eq!(bench.ask(READ, 9, 1024), (1, 1));
    assert_eq!(bench.ask(READ, 20, 512), (1, 1));
}

#[test]
fn around_the_page_cache_goes_only_what_is_aligned() {
    let directory = tempfile::tempdir_in(".").unwrap();
    let path = directory.path().join("image");
    std::fs::write(&path, vec![5; 64 << 10]).unwrap();
    let open = |flags| {
        let mut options = File::options();
        options
            .read(true)
            .write(true)
            .custom_flags(flags)
            .open(&path)
    };
    let Ok(direct) = open(libc::O_DIRECT) else {
        println!("this file system knows no O_DIRECT");
        return;
    };
    let bench = Bench::new();
    let mut options = options(&bench.file, false, Cache::WriteBack);
    options.image = Image::direct(open(0).unwrap(), direct);
    let bench = Bench {
        disk: Disk::new(options).unwrap(),
        ..bench
    };
    let alignment = bench.disk.image().alignment().unwrap();
    for (address, expected) in [(DATA, true), (DATA + 8, false)] {
        bench.header(READ, 8);
        let mut chain = Chain {
            head: 0,
            readable: vec![segment(HEADER, 16)],
            writable: vec![segment(address, 4096), segment(STATUS, 1)],
        };
        let mut io = Io::with_capacity(1);
        request::read(&mut chain, &bench.memory, &bench.disk, &mut io).unwrap();
        io.choose_path(Some(alignment));
        assert_eq!(io.is_direct(), expected);
        assert_eq!(io.perform(&bench.disk.image()), 4096);
    }
    assert_eq!(bench.data(4096 + 8), [5; 4096 + 8]);
}
