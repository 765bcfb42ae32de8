//! Event files, read back by a decoder that shares nothing with the writer.

use lowtide_formats::tensorboard::EventWriter;
use proptest::prelude::*;

/// CRC-32C by its definition, a bit at a time, the highest first.
fn crc32c(bytes: &[u8]) -> u32 {
    let mut rest = !0_u32;
    for byte in bytes {
        rest ^= u32::from(byte.reverse_bits()) << 24;
        for _ in 0..8 {
            let out = rest >> 31;
            rest = (rest << 1) ^ (out * 0x1edc_6f41);
        }
    }
    !rest.reverse_bits()
}

fn checked(bytes: &[u8], mask: &[u8]) {
    let stored = u32::from_le_bytes(mask.try_into().unwrap());
    let turned = stored.wrapping_sub(0xa282_ead8);
    assert_eq!(turned.rotate_left(15), crc32c(bytes));
}

/// The data of all records.
fn records(mut file: &[u8]) -> Vec<&[u8]> {
    let mut records = Vec::new();
    while !file.is_empty() {
        let length = u64::from_le_bytes(file[..8].try_into().unwrap()) as usize;
        checked(&file[..8], &file[8..12]);
        let data = &file[12..12 + length];
        checked(data, &file[12 + length..16 + length]);
        records.push(data);
        file = &file[16 + length..];
    }
    records
}

/// A field of a message: its number, and its value as a number or as bytes.
#[derive(Debug, PartialEq)]
enum Field<'a> {
    Number(u64, u64),
    Bytes(u64, &'a [u8]),
}

fn fields(mut message: &[u8]) -> Vec<Field<'_>> {
    fn number(message: &mut &[u8]) -> u64 {
        let (mut n, mut shift) = (0, 0);
        loop {
            let (byte, rest) = message.split_first().unwrap();
            *message = rest;
            n |= u64::from(byte & 0x7f) << shift;
            shift += 7;
            if byte & 0x80 == 0 {
                return n;
            }
        }
    }
    let mut fields = Vec::new();
    while !message.is_empty() {
        let key = number(&mut message);
        let length = match key & 7 {
            0 => {
                fields.push(Field::Number(key >> 3, number(&mut message)));
                continue;
            }
            1 => 8,
            2 => number(&mut message) as usize,
            5 => 4,
            wire => panic!("wire type {wire}"),
        };
        let (value, rest) = message.split_at(length);
        message = rest;
        fields.push(Field::Bytes(key >> 3, value));
    }
    fields
}

/// Time, step and scalars of an event.
fn event(record: &[u8]) -> (f64, u64, Vec<(String, f32)>) {
    let all = fields(record);
    let [Field::Bytes(1, time), Field::Number(2, step), Field::Bytes(5, summary)] = all[..] else {
        panic!("{all:?}")
    };
    let value = |field: Field<'_>| {
        let Field::Bytes(1, value) = field else { panic!("{field:?}") };
        let parts = fields(value);
        let [Field::Bytes(1, tag), Field::Bytes(2, scalar)] = parts[..] else {
            panic!("{parts:?}")
        };
        let tag = String::from_utf8(tag.to_vec()).unwrap();
        (tag, f32::from_le_bytes(scalar.try_into().unwrap()))
    };
    let scalars = fields(summary).into_iter().map(value).collect();
    (f64::from_le_bytes(time.try_into().unwrap()), step, scalars)
}

#[test]
fn a_decoder_of_its_own_knows_the_published_checksum() {
    assert_eq!(crc32c(b"123456789"), 0xe306_9283);
}

proptest! {
    #[test]
    fn what_is_written_is_read_again(
        events in proptest::collection::vec(
            (
                any::<f64>().prop_filter("a time", |time| !time.is_nan()),
                any::<u64>(),
                proptest::collection::vec(("[a-z/_é]{0,200}", -1e30_f64..1e30), 0..9),
            ),
            0..6,
        ),
    ) {
        let mut writer = EventWriter::new(Vec::new(), 7.25).unwrap();
        for (time, step, scalars) in &events {
            let scalars = scalars.iter().map(|(tag, value)| (tag.as_str(), *value));
            writer.scalars(*time, *step, scalars).unwrap();
        }
        let file = writer.into_inner();
        let records = records(&file);
        let version = fields(records[0]);
        let time = 7.25_f64.to_le_bytes();
        prop_assert_eq!(version, [Field::Bytes(1, &time), Field::Bytes(3, b"brain.Event:2")]);
        prop_assert_eq!(records.len(), 1 + events.len());
        for (record, (time, step, scalars)) in records[1..].iter().zip(&events) {
            let scalars: Vec<_> =
                scalars.iter().map(|(tag, value)| (tag.clone(), *value as f32)).collect();
            prop_assert_eq!(event(record), (*time, *step, scalars));
        }
    }
}
