//! Kind 48: pages of Parquet files.

use crate::bounds::alone;
use crate::parquet::{Case, Files};
use crate::parquet_file::{Column, dictionary, file, gzip, page, pairs, plain, zstd_run};

#[test]
fn kind_48_pages_that_hold_more_or_less_than_they_say() {
    let (alone, files) = (alone(), Files::new());
    let with = |codec: i64, values: i64, pages: Vec<u8>| {
        let completion = Column {
            pages: page(5, 1, 0, &plain(&[b"b"])),
            codec: 0,
            values: 1,
        };
        file(&pairs(), &[Column { pages, codec, values }, completion], 1)
    };
    let bomb = |size: usize| zstd_run(b'x', size);
    let texts = plain(&[b"a"]);
    let snappy_4g = [0xff, 0xff, 0xff, 0xff, 0x0f, 0];
    let many: Vec<u8> = (0..4000).flat_map(|_| page(8 << 20, 0, 0, &bomb(8 << 20))).collect();
    let zeros = gzip(&vec![0; 40 << 20]);
    let ordinary = |encoding: i64, bytes: &[u8]| page(bytes.len() as i64, 1, encoding, bytes);
    let cases: Vec<Case<'_>> = vec![
        (
            "two gigabytes, uncompressed",
            with(0, 1, page(i64::from(i32::MAX), 1, 0, &texts)),
            &["bytes of memory"],
        ),
        (
            "two gigabytes of snappy",
            with(1, 1, page(i64::from(i32::MAX), 1, 0, &texts)),
            &["bytes of memory"],
        ),
        (
            "two gigabytes of gzip",
            with(2, 1, page(i64::from(i32::MAX), 1, 0, &zeros)),
            &["bytes of memory"],
        ),
        (
            "two gigabytes of zstd",
            with(6, 1, page(i64::from(i32::MAX), 1, 0, &bomb(1 << 31))),
            &["bytes of memory"],
        ),
        (
            "snappy that says four gigabytes",
            with(1, 1, page(100, 1, 0, &snappy_4g)),
            &["100 bytes"],
        ),
        (
            "gzip that holds more",
            with(2, 1, page(100, 1, 0, &zeros)),
            &["100 bytes"],
        ),
        (
            "zstd that holds more",
            with(6, 1, page(100, 1, 0, &bomb(1 << 30))),
            &["100 bytes"],
        ),
        (
            "zstd with a window of a terabyte",
            with(6, 1, page(100, 1, 0, &[0x28, 0xb5, 0x2f, 0xfd, 0, 30 << 3, 1, 0, 0])),
            &["`prompt`"],
        ),
        (
            "zstd that holds less",
            with(6, 1, page(16 << 20, 1, 0, &bomb(1 << 20))),
            &["bytes in a page"],
        ),
        (
            "forty megabytes of zstd",
            with(6, 1, page(20 << 20, 1, 0, &bomb(20 << 20))),
            &["x.parquet"],
        ),
        (
            "four thousand pages of eight megabytes",
            with(6, 1, many),
            &["when it is unpacked"],
        ),
        ("bytes less than none", with(0, 1, page(-1, 1, 0, &texts)), &["size"]),
        ("a codec of no kind", with(77, 1, page(5, 1, 0, &texts)), &["codec 77"]),
        (
            "a text of four gigabytes",
            with(0, 1, ordinary(0, &[0xff; 8])),
            &["`prompt`", "inside of its page"],
        ),
        ("no text", with(0, 1, ordinary(0, &[])), &["`prompt`"]),
        (
            "more values than the column's",
            with(0, 1, page(5, 9, 0, &texts)),
            &["at most 1 values"],
        ),
        (
            "fewer values than the column's",
            with(0, 9, page(5, 1, 0, &texts)),
            &["8 values more"],
        ),
        (
            "a header without end",
            with(0, 1, [0x15; 200_000].to_vec()),
            &["header"],
        ),
        (
            "a page longer than its column",
            with(0, 1, ordinary(0, &texts)[..12].to_vec()),
            &["`prompt`"],
        ),
        ("no pages", with(0, 1, vec![]), &["`prompt`"]),
        (
            "an encoding of no kind",
            with(0, 1, ordinary(44, &texts)),
            &["encoding 44"],
        ),
        (
            "a dictionary that is not there",
            with(0, 1, ordinary(8, &[1, 2, 0])),
            &["dictionary"],
        ),
        (
            "a number behind the dictionary",
            with(0, 1, [dictionary(5, 1, &texts), ordinary(8, &[8, 2, 200])].concat()),
            &["200"],
        ),
        (
            "indices of 255 bits",
            with(0, 1, [dictionary(5, 1, &texts), ordinary(8, &[255, 3, 0])].concat()),
            &["32 bits"],
        ),
        (
            "a dictionary of 2^31 texts",
            with(0, 1, dictionary(5, i64::from(i32::MAX), &texts)),
            &["room for"],
        ),
        (
            "two dictionaries",
            with(0, 1, [dictionary(5, 1, &texts), dictionary(5, 1, &texts)].concat()),
            &["two"],
        ),
        ("deltas of nothing", with(0, 1, ordinary(6, &[0, 0, 0, 0])), &["deltas"]),
        (
            "2^60 deltas",
            with(
                0,
                1,
                ordinary(6, &[128, 1, 1, 255, 255, 255, 255, 255, 255, 255, 255, 15, 0, 0, 0]),
            ),
            &["`prompt`"],
        ),
        (
            "a length below zero",
            with(0, 1, ordinary(6, &[128, 1, 4, 1, 1])),
            &["length"],
        ),
        (
            "a prefix of nothing",
            with(0, 1, ordinary(7, &[128, 1, 4, 1, 2, 128, 1, 4, 1, 0])),
            &["prefix"],
        ),
    ];
    for (what, bytes, words) in cases {
        files.refused(&alone, what, &bytes, words);
    }
}
