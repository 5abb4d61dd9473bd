//! Files that were made to do harm, or came to it: each is an error that says what is wrong, and
//! none makes the reader panic, run anything, or take memory out of proportion.

#![allow(clippy::unwrap_used)] // in the helpers too

use std::io::Write;
use std::path::Path;
use std::time::{Duration, Instant};

use distorch_checkpoint::file::{Checkpoint, Problem, pickle};
use proptest::prelude::*;

const LEGACY: &[u8] = b"\x80\x02\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19.\
    \x80\x02M\xe9\x03.\x80\x02}.";

fn open(file: impl AsRef<[u8]>) -> Result<Checkpoint, Problem> {
    Checkpoint::from_bytes("hostile", file.as_ref().to_vec()).map_err(|error| error.problem)
}

/// Opens a file and reads all its tensors.
fn read_all(file: &[u8]) {
    let Ok(opened) = open(file) else { return };
    for (key, info) in opened.tensors() {
        if let Ok(bytes) = opened.bytes(key) {
            assert_eq!(bytes.len() as u64, info.bytes());
        }
    }
}

fn refusal(file: impl AsRef<[u8]>) -> String {
    open(file).unwrap_err().to_string()
}

fn fixture(name: &str) -> Vec<u8> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/pickles");
    std::fs::read(folder.join(name)).unwrap()
}

fn safetensors(header: &str, data: usize) -> Vec<u8> {
    let mut file = (header.len() as u64).to_le_bytes().to_vec();
    file.extend(header.bytes());
    file.resize(file.len() + data, 1);
    file
}

fn good_safetensors() -> Vec<u8> {
    safetensors(
        r#"{"__metadata__":{"format":"pt"},"a":{"dtype":"F16","shape":[2,3],"data_offsets":[0,12]},"b":{"dtype":"I64","shape":[],"data_offsets":[12,20]}}"#,
        20,
    )
}

/// What one entry of an archive says of itself; `lie` changes what the directory says.
struct Zipped<'a> {
    name: &'a str,
    method: u16,
    size: u32,
    stream: &'a [u8],
}

fn stored<'a>(name: &'a str, data: &'a [u8]) -> Zipped<'a> {
    Zipped { name, method: 0, size: data.len() as u32, stream: data }
}

fn archive(entries: &[Zipped]) -> Vec<u8> {
    let (mut file, mut directory) = (Vec::new(), Vec::new());
    for Zipped { name, method, size, stream } in entries {
        let offset = (file.len() as u32).to_le_bytes();
        let mut common = vec![0; 4];
        common.extend(method.to_le_bytes());
        common.extend([0; 8]);
        common.extend((stream.len() as u32).to_le_bytes());
        common.extend(size.to_le_bytes());
        common.extend((name.len() as u16).to_le_bytes());
        common.extend([0; 2]);
        file.extend([b"PK\x03\x04", &common[..], name.as_bytes(), stream].concat());
        directory
            .extend([b"PK\x01\x02\0\0", &common[..], &[0; 10], &offset, name.as_bytes()].concat());
    }
    let count = (entries.len() as u16).to_le_bytes();
    let (size, offset) = (directory.len() as u32, file.len() as u32);
    file.extend(directory);
    file.extend(b"PK\x05\x06\0\0\0\0");
    file.extend([&count[..], &count, &size.to_le_bytes(), &offset.to_le_bytes(), &[0; 2]].concat());
    file
}

fn deflate(data: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::DeflateEncoder::new(Vec::new(), flate2::Compression::best());
    encoder.write_all(data).unwrap();
    encoder.finish().unwrap()
}

/// The pickle of `{"w": a tensor}` with these numbers.
fn tensor(count: i64, first: i64, shape: &[i64], strides: &[i64]) -> Vec<u8> {
    let long = |value: i64| [&[0x8a, 8][..], &value.to_le_bytes()].concat();
    let tuple = |values: &[i64]| {
        let values: Vec<u8> = values.iter().flat_map(|&value| long(value)).collect();
        [b"(", &values[..], b"t"].concat()
    };
    [
        b"\x80\x02}U\x01wctorch._utils\n_rebuild_tensor_v2\n((U\x07storagectorch\nFloatStorage\nU\x010U\x03cpu",
        &long(count)[..],
        b"tQ",
        &long(first),
        &tuple(shape),
        &tuple(strides),
        b"\x89NtRs.",
    ]
    .concat()
}

fn with_storage(pickle: &[u8], storage: &[u8]) -> Vec<u8> {
    archive(&[stored("a/data.pkl", pickle), stored("a/data/0", storage)])
}

#[test]
fn files_cut_anywhere_are_errors() {
    let whole = good_safetensors();
    open(&whole).unwrap();
    for length in 0..whole.len() {
        let message = refusal(&whole[..length]);
        if length >= 9 {
            assert!(message.contains("cut short"), "{length}: {message}");
        }
    }
    for name in
        ["views.ckpt", "nested.ckpt", "deflated.pt", "dtypes-legacy.ckpt", "views-legacy.ckpt"]
    {
        let whole = fixture(name);
        open(&whole).unwrap();
        for length in 0..whole.len() {
            assert!(open(&whole[..length]).is_err(), "{name} cut to {length} bytes");
        }
    }
}

#[test]
fn a_header_of_two_to_the_63_is_not_believed() {
    let mut file = safetensors("{}", 0);
    file[..8].copy_from_slice(&(1u64 << 63).to_le_bytes());
    assert!(refusal(&file).contains("9223372036854775808 bytes, over the limit"));
    file[..8].copy_from_slice(&u64::MAX.to_le_bytes());
    assert!(refusal(&file).contains("over the limit"));
}

#[test]
fn globals_that_tensors_do_not_need_are_refused_by_name() {
    let eval = b"cbuiltins\ngetattr\n(cbuiltins\n__dict__\nU\x04evaltR(U\x0a__import__tR.";
    for (pickle, name) in [
        (&b"\x80\x02cos\nsystem\nU\x09echo harm\x85R."[..], "`os.system`"),
        (b"\x80\x04\x8c\x05posix\x8c\x06system\x93\x8c\x04true\x85R.", "`posix.system`"),
        (b"\x80\x02csubprocess\nPopen\n.", "`subprocess.Popen`"),
        (b"(S'echo harm'\nios\nsystem\n.", "`os.system`"),
        (b"(cnt\nsystem\nS'x'\no.", "`nt.system`"),
        (eval, "`builtins.getattr`"),
        (b"\x80\x02c__builtin__\nexec\n.", "`__builtin__.exec`"),
        (b"\x80\x02ctorch\nload\n.", "`torch.load`"),
        (b"\x80\x02ca\x1b[2J\nb\n.", "`a\\u{1b}[2J.b`"),
    ] {
        for file in [with_storage(pickle, b""), [LEGACY, pickle].concat()] {
            let message = refusal(file);
            assert!(message.contains("refuses") && message.contains(name), "{name}: {message}");
        }
    }
}

#[test]
fn broken_pickles_are_errors() {
    for (pickle, reason) in [
        (&b""[..], "too early"),
        (b".", "the stack is empty"),
        (b"0", "the stack is empty"),
        (b"(NNu.", "the stack is empty"),
        (b"(R.", "the stack is empty"),
        (b"1.", "there is no mark"),
        (b"]NNs.", "in what is no dict"),
        (b"NNa.", "to what is no list"),
        (b"}(Nu.", "a key without a value"),
        (b"NNR.", "what is no function or class is called"),
        (b"ctorch\nFloatStorage\n)R.", "a storage class or dtype is called"),
        (b"NNb.", "to what is no object"),
        (b"h\x07.", "nothing was memoized as 7"),
        (b"\x82\x01.", "extension codes"),
        (b"\x97.", "buffers outside"),
        (b"\x80\x07N.", "protocol 7"),
        (b"\xff.", "unknown opcode 0xff"),
        (b"T\xff\xff\xff\xffx.", "negative length"),
        (b"\x8b\xff\xff\xff\x7fx.", "too early"),
        (b"\x8d\xff\xff\xff\xff\xff\xff\xff\xffx.", "too early"),
        (b"X\xff\xff\xff\xffx.", "too early"),
        (b"X\x01\0\0\0\xff.", "not UTF-8"),
        (b"I12x\n.", "an integer that is none"),
        (b"S'a\n.", "without quotes"),
        (b"cos", "without an end"),
    ] {
        let message = pickle::read(pickle).unwrap_err().to_string();
        assert!(message.contains(reason), "{:?}: {message}", String::from_utf8_lossy(pickle));
    }
}

#[test]
fn pickle_bombs_stay_small() {
    let start = Instant::now();
    // Each list holds the one before ten times: 10^200 leaves.
    let mut laughs = b"\x80\x02]q\0".to_vec();
    for level in 1..=200u8 {
        laughs.extend(b"](");
        laughs.extend([b'h', level - 1].repeat(10));
        laughs.extend([b'e', b'q', level]);
    }
    laughs.push(b'.');
    assert!(matches!(open(with_storage(&laughs, b"")), Err(Problem::NoTensors)));

    // The same with dicts, which are entered in search of tensors.
    let mut dicts = b"\x80\x02}q\0".to_vec();
    for level in 1..=30u8 {
        dicts.extend(b"}(");
        for key in b'a'..=b'j' {
            dicts.extend([b'U', 1, key, b'h', level - 1]);
        }
        dicts.extend([b'u', b'q', level]);
    }
    dicts.push(b'.');
    assert!(refusal(with_storage(&dicts, b"")).contains("the keys take over 64.0 MiB"));

    // One large dict under many keys.
    let mut many = [b"}(", &b"U\x01xN".repeat(10_000)[..], b"uq\0}("].concat();
    many.extend(b"U\x01yh\0".repeat(500));
    many.extend(b"u.");
    assert!(refusal(with_storage(&many, b"")).contains("more than 4000000 items"));

    // A dict in itself.
    assert!(refusal(with_storage(b"}q\0U\x01ah\0sU\x01bNs.", b"")).contains("dicts over 32 deep"));

    // Nested a million deep, with and without an end.
    for deep in [
        b"(".repeat(1 << 20),
        [b"]".repeat(1 << 20), b"a".repeat((1 << 20) - 1), b".".to_vec()].concat(),
    ] {
        assert!(open(with_storage(&deep, b"")).is_err());
    }

    // A string of a megabyte as the key of two hundred dicts in each other.
    let mut keys = [&b"X\0\0\x10\0"[..], &vec![b'k'; 1 << 20], b"q\0"].concat();
    keys.extend(b"0");
    keys.extend(b"}h\0".repeat(20));
    keys.extend(b"}");
    keys.extend(b"s".repeat(20));
    keys.extend(b"U\x01zNs.");
    assert!(refusal(with_storage(&keys, b"")).contains("the keys take over 64.0 MiB"));

    // More opcodes than any checkpoint needs.
    assert!(
        refusal(with_storage(&b"N0".repeat(2_000_001), b"")).contains("more than 4000000 opcodes")
    );
    assert!(start.elapsed() < Duration::from_secs(20), "took {:?}", start.elapsed());
}

#[test]
fn views_outside_of_their_storage_are_refused() {
    let storage = [0; 24];
    open(with_storage(&tensor(6, 1, &[2, 2], &[3, 1]), &storage)).unwrap();
    const MAX: i64 = i64::MAX;
    for (count, first, shape, strides, reason) in [
        (6, 2, &[2, 2][..], &[3, 1][..], "lies outside of its storage"),
        (6, 6, &[1], &[1], "lies outside of its storage"),
        (6, MAX, &[2], &[1], "lies outside of its storage"),
        (6, 0, &[2, 2], &[MAX, MAX], "lies outside of its storage"),
        (7, 0, &[7], &[1], "fewer bytes than announced"),
        (MAX, 0, &[1], &[1], "fewer bytes than announced"),
        (6, -1, &[2], &[1], "no valid offset"),
        (6, 0, &[-2], &[1], "no valid shape"),
        (6, 0, &[2], &[-1], "no valid strides"),
        (6, 0, &[2, 2], &[1], "differ in length"),
        (6, 0, &[MAX, MAX], &[0, 0], "shape is too large"),
        (6, 0, &[0, MAX, MAX], &[0, 0, 0], "shape is too large"),
        (6, 0, &[1 << 40], &[0], "repeats its elements"),
        (-6, 0, &[1], &[1], "no valid storage"),
        (6, 0, &[1; 65], &[1; 65], "no valid shape"),
    ] {
        let pickle = tensor(count, first, shape, strides);
        let message = refusal(with_storage(&pickle, &storage));
        assert!(message.contains("tensor `w`") && message.contains(reason), "{reason}: {message}");
    }
    let missing = archive(&[stored("a/data.pkl", &tensor(6, 0, &[1], &[1]))]);
    assert!(refusal(missing).contains("its storage `0` is missing"));
    // Strides of dimensions of size 1 and of empty tensors are never taken.
    read_all(&with_storage(&tensor(6, 0, &[2, 1], &[2, MAX]), &storage));
    read_all(&with_storage(&tensor(6, MAX, &[0], &[MAX]), &storage));
}

#[test]
fn legacy_storages_that_lie_are_refused() {
    let pickle = tensor(6, 0, &[6], &[1]);
    let file = |keys: &[u8], count: u64, data: usize| {
        [LEGACY, &pickle[..], keys, &count.to_le_bytes(), &vec![0; data]].concat()
    };
    open(file(b"]U\x010a.", 6, 24)).unwrap();
    assert!(refusal(file(b"]U\x010a.", 6, 23)).contains("cut short"));
    assert!(refusal(file(b"]U\x010a.", 7, 28)).contains("has 7 elements, not the 6"));
    assert!(refusal(file(b"]U\x010a.", u64::MAX, 24)).contains("elements, not the 6"));
    assert!(refusal(file(b"]U\x011a.", 6, 24)).contains("is not in use"));
    assert!(refusal(file(b"].", 6, 24)).contains("its storage `0` is missing"));
    assert!(refusal(file(b"N.", 6, 24)).contains("are no list"));
    let huge = [LEGACY, &tensor(i64::MAX, 0, &[6], &[1]), b"]U\x010a.", &[0xff; 32]].concat();
    assert!(refusal(huge).contains("too many elements"));
}

#[test]
fn archives_that_lie_are_refused() {
    let pickle = tensor(6, 0, &[6], &[1]);
    let good = with_storage(&pickle, &[0; 24]);
    open(&good).unwrap();
    for name in ["../../etc/passwd", "/etc/passwd", "a/../../b", "..\\b", "a/data/0\0"] {
        let file = archive(&[
            stored("a/data.pkl", &pickle),
            stored("a/data/0", &[0; 24]),
            stored(name, b"x"),
        ]);
        assert!(refusal(file).contains("leads out of the archive"), "{name}");
    }
    let twice = archive(&[stored("a/data.pkl", &pickle), stored("a/data.pkl", &pickle)]);
    assert!(refusal(twice).contains("`a/data.pkl` is there twice"));
    let other = archive(&[stored("a/readme", b"")]);
    assert!(refusal(other).contains("a zip archive without data.pkl"));

    let end = good.len() - 22;
    let lie = |at: usize, bytes: &[u8]| {
        let mut file = good.clone();
        file[at..at + bytes.len()].copy_from_slice(bytes);
        refusal(file)
    };
    assert!(lie(end + 16, &[0xfe; 4]).contains("directory is not where it says"));
    assert!(lie(end + 16, &[0xff; 4]).contains("zip64 directory is not where it says"));
    assert!(lie(end + 10, &[0xff; 2]).contains("zip64 directory is not where it says"));
    assert!(lie(end + 10, &[3, 0]).contains("directory ends too early"));
    let central = good.windows(4).position(|window| window == b"PK\x01\x02").unwrap();
    assert!(lie(central, b"XX").contains("directory is damaged"));
    assert!(lie(central + 8, &[1]).contains("is encrypted"));
    assert!(lie(central + 10, &[99]).contains("compression 99 is not read"));
    assert!(lie(central + 20, &[0xf0; 4]).contains("behind the end of the file"));
    assert!(lie(central + 20, &[0xff; 4]).contains("zip64 sizes are missing"));
    assert!(lie(central + 42, &[1]).contains("not where the directory says"));
    assert!(lie(central + 42, &[0xf0; 4]).contains("not where the directory says"));
    assert!(lie(central + 46, b"b").contains("another one is where the directory says"));
}

#[test]
fn a_zip64_directory_is_read_and_its_lies_are_not_believed() {
    let plain = with_storage(&tensor(6, 0, &[6], &[1]), &[0; 24]);
    let (front, end) = plain.split_at(plain.len() - 22);
    let number = |at: usize| u64::from(u32::from_le_bytes(end[at..at + 4].try_into().unwrap()));
    let file = |count: u64, size: u64, offset: u64, locator: u64| {
        let mut file = front.to_vec();
        file.extend(b"PK\x06\x06");
        file.extend([0; 20]);
        for value in [count, count, size, offset] {
            file.extend(value.to_le_bytes());
        }
        file.extend(b"PK\x06\x07\0\0\0\0");
        file.extend(locator.to_le_bytes());
        file.extend([1, 0, 0, 0]);
        file.extend(b"PK\x05\x06\0\0\0\0");
        file.extend([0xff; 12]);
        file.extend([0; 2]);
        file
    };
    let (size, offset, locator) = (number(12), number(16), front.len() as u64);
    open(file(2, size, offset, locator)).unwrap();
    for lie in [
        file(u64::MAX, size, offset, locator),
        file(2, u64::MAX, offset, locator),
        file(2, size, u64::MAX, locator),
        file(2, size, offset + 1, locator),
        file(2, size, offset, u64::MAX),
        file(2, size, offset, 0),
    ] {
        assert!(matches!(open(lie), Err(Problem::Zip(_))));
    }
}

#[test]
fn zip_bombs_stay_small() {
    let bomb = deflate(&vec![0; 64 << 20]);
    assert!(bomb.len() < 100_000);
    let pickle = tensor(6, 0, &[6], &[1]);
    // The directory says 24 bytes, the stream has 64 MiB: no more than 25 are inflated.
    let small = Zipped { name: "a/data/0", method: 8, size: 24, stream: &bomb };
    let file = open(archive(&[stored("a/data.pkl", &pickle), small])).unwrap();
    assert!(file.bytes("w").unwrap_err().to_string().contains("has more bytes, not the 24"));
    // The directory says 4 GB, the stream has fewer: nothing is reserved on its word.
    let large =
        Zipped { name: "a/data/0", method: 8, size: 4_000_000_000, stream: &deflate(&[0; 24]) };
    let file = open(archive(&[stored("a/data.pkl", &pickle), large])).unwrap();
    assert!(file.bytes("w").unwrap_err().to_string().contains("has 24 bytes, not the 4000000000"));
    // A pickle that inflates to more than any pickle has.
    let large = Zipped { name: "a/data.pkl", method: 8, size: 1 << 30, stream: &bomb };
    assert!(refusal(archive(&[large])).contains("inflates to 1073741824 bytes"));
}

/// Good files, one for each path through the readers.
fn corpus() -> Vec<Vec<u8>> {
    let names = [
        "views.ckpt",
        "views-legacy.ckpt",
        "nested.ckpt",
        "parameters.ckpt",
        "deflated.pt",
        "protocol-1-legacy.pth",
        "protocol-4.pth",
        "textual-inversion.pt",
        "dtypes.ckpt",
    ];
    names.into_iter().map(fixture).chain([good_safetensors()]).collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn no_change_of_a_good_file_makes_the_reader_panic(
        file in proptest::sample::select(corpus()),
        changes in proptest::collection::vec((any::<proptest::sample::Index>(), any::<u8>()), 1..8),
        cut in proptest::option::of(any::<proptest::sample::Index>()),
    ) {
        let mut file = file;
        for (index, byte) in changes {
            let at = index.index(file.len());
            file[at] = byte;
        }
        if let Some(cut) = cut {
            file.truncate(cut.index(file.len()));
        }
        read_all(&file);
    }

    #[test]
    fn no_bytes_make_the_unpickler_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        let _ = pickle::read(&bytes);
        read_all(&[LEGACY, &bytes].concat());
    }

    #[test]
    fn no_header_makes_the_reader_panic(header in "\\{\"[a-z]{1,3}\":\\{\"dtype\":\"(F16|U8|X)\",\"shape\":\\[[0-9,]{0,20}\\],\"data_offsets\":\\[[0-9]{1,3},[0-9]{1,20}\\]\\}\\}", data in 0usize..64) {
        read_all(&safetensors(&header, data));
    }
}
