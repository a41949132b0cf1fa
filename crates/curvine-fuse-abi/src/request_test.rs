use proptest::prelude::*;
use zerocopy::IntoBytes;

use super::*;

/// A request as the kernel would write it.
fn request(opcode: Opcode, parts: &[&[u8]]) -> Vec<u8> {
    raw(opcode as u32, parts, 0)
}

fn raw(opcode: u32, parts: &[&[u8]], extensions: u16) -> Vec<u8> {
    let body = parts.concat();
    let header = InHeader {
        len: (size_of::<InHeader>() + body.len()) as u32,
        opcode,
        unique: 42,
        nodeid: 1,
        total_extlen: extensions,
        ..InHeader::default()
    };
    [header.as_bytes(), &body].concat()
}

fn operation_of(bytes: &[u8]) -> Operation<'_> {
    parse(bytes).unwrap().operation
}

#[test]
fn names_are_taken_without_their_terminators() {
    assert_eq!(operation_of(&request(Opcode::Lookup, &[b"abc\0"])), Operation::Lookup { name: b"abc" });
    let args = Rename2In { newdir: 9, flags: 2, padding: 0 };
    assert_eq!(
        operation_of(&request(Opcode::Rename2, &[args.as_bytes(), b"old\0new\0"])),
        Operation::Rename { name: b"old", new_parent: 9, new_name: b"new", flags: 2 }
    );
    assert_eq!(
        operation_of(&request(Opcode::Symlink, &[b"name\0a/b\0"])),
        Operation::Symlink { name: b"name", target: b"a/b" }
    );
}

#[test]
fn a_write_points_at_its_data() {
    let args = WriteIn { fh: 3, offset: 8192, size: 5, ..WriteIn::default() };
    let bytes = request(Opcode::Write, &[args.as_bytes(), b"hello"]);
    let Operation::Write { args: parsed, data, data_offset } = operation_of(&bytes) else { panic!() };
    assert_eq!((parsed, data), (args, &b"hello"[..]));
    assert_eq!(&bytes[data_offset..], b"hello");
    let short = WriteIn { size: 6, ..args };
    assert!(parse(&request(Opcode::Write, &[short.as_bytes(), b"hello"])).is_err());
}

#[test]
fn values_and_lists_are_checked_against_their_lengths() {
    let args = SetxattrIn { size: 3, flags: 1 };
    assert_eq!(
        operation_of(&request(Opcode::Setxattr, &[args.as_bytes(), b"user.a\0", b"\0\x01\x02"])),
        Operation::Setxattr { name: b"user.a", value: b"\0\x01\x02", flags: 1, kill_setgid: false }
    );
    // With SETXATTR_EXT.
    for (flags, kill_setgid) in [(0, false), (1, true)] {
        let more = SetxattrExt { flags, padding: 0 };
        assert_eq!(
            operation_of(&request(Opcode::Setxattr, &[args.as_bytes(), more.as_bytes(), b"user.a\0", b"\0\x01\x02"])),
            Operation::Setxattr { name: b"user.a", value: b"\0\x01\x02", flags: 1, kill_setgid }
        );
    }
    let items = [ForgetOne { nodeid: 5, nlookup: 1 }, ForgetOne { nodeid: 6, nlookup: 2 }];
    let announced = |count| BatchForgetIn { count, dummy: 0 };
    let bytes = request(Opcode::BatchForget, &[announced(2).as_bytes(), items.as_bytes()]);
    let Operation::BatchForget { items: parsed } = operation_of(&bytes) else { panic!() };
    assert_eq!(parsed.iter().collect::<Vec<_>>(), items);
    for count in [3, u32::MAX] {
        assert!(parse(&request(Opcode::BatchForget, &[announced(count).as_bytes(), items.as_bytes()])).is_err());
    }
}

#[test]
fn truncated_unterminated_and_empty_arguments_are_refused() {
    assert!(parse(b"").is_err());
    assert!(parse(&[0; 39]).is_err());
    assert!(parse(&request(Opcode::Lookup, &[b"abc"])).is_err());
    assert!(parse(&request(Opcode::Lookup, &[b"\0"])).is_err());
    assert!(parse(&request(Opcode::Open, &[b"1234567"])).is_err());
    let mut longer = request(Opcode::Statfs, &[]);
    longer[0] += 1;
    assert!(parse(&longer).is_err());
    let mut shorter = request(Opcode::Statfs, &[]);
    shorter[0] = 39;
    assert!(parse(&shorter).is_err());
}

#[test]
fn extensions_are_skipped_and_must_fit() {
    let bytes = raw(Opcode::Lookup as u32, &[b"abc\0", &[0xff; 16]], 2);
    assert_eq!(operation_of(&bytes), Operation::Lookup { name: b"abc" });
    assert!(parse(&raw(Opcode::Lookup as u32, &[b"abc\0"], 100)).is_err());
}

#[test]
fn init_is_understood_with_and_without_its_second_half() {
    let flags = (init_flags::ASYNC_READ | init_flags::INIT_EXT) as u32;
    let args = InitIn { major: 7, minor: 45, max_readahead: 1, flags };
    let second = (init_flags::PASSTHROUGH >> 32) as u32;
    let Operation::Init(init) =
        operation_of(&request(Opcode::Init, &[args.as_bytes(), &second.to_ne_bytes(), &[0; 44]]))
    else {
        panic!()
    };
    assert_eq!(init.flags, init_flags::ASYNC_READ | init_flags::INIT_EXT | init_flags::PASSTHROUGH);
    let old = InitIn { minor: 27, flags: 1, ..args };
    let Operation::Init(init) = operation_of(&request(Opcode::Init, &[old.as_bytes()])) else { panic!() };
    assert_eq!((init.minor, init.flags), (27, 1));
}

#[test]
fn an_opcode_of_a_newer_kernel_is_named_not_refused() {
    assert_eq!(operation_of(&raw(4711, &[b"x"], 0)), Operation::Unknown(4711));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn no_bytes_make_the_parser_panic(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
        let _ = parse(&bytes);
    }

    #[test]
    fn no_arguments_of_any_opcode_make_the_parser_panic(
        opcode in prop_oneof![0u32..60, any::<u32>()],
        body in proptest::collection::vec(prop_oneof![Just(0u8), any::<u8>()], 0..200),
        extensions in prop_oneof![Just(0u16), any::<u16>()],
        cut in 0usize..16,
        skew in 0usize..8,
    ) {
        let bytes = raw(opcode, &[&body], extensions);
        let whole = parse(&bytes).is_ok();
        let cut_off = &bytes[..bytes.len() - cut.min(bytes.len())];
        if cut > 0 {
            prop_assert!(parse(cut_off).is_err());
        }
        // Nothing depends on where in memory the request lies.
        let mut shifted = vec![0; skew];
        shifted.extend_from_slice(&bytes);
        prop_assert_eq!(parse(&shifted[skew..]).is_ok(), whole);
    }
}
