//! The table of formats and the sizes they state.

use lowtide_quant::formats::{ALL, BF16, F16, F32, Q4_0, Q4_1, Q4_K, Q8_0, by_ggml_type, by_name};
use lowtide_quant::{BlockFormat, block_count};

#[test]
fn names_types_and_sizes() {
    let facts: Vec<_> = ALL
        .iter()
        .map(|f| (f.name(), f.ggml_type(), f.block_len(), f.block_bytes(), f.row_bytes(256)))
        .collect();
    assert_eq!(
        facts,
        [
            ("F32", Some(0), 1, 4, Some(1024)),
            ("F16", Some(1), 1, 2, Some(512)),
            ("BF16", Some(30), 1, 2, Some(512)),
            ("Q4_0", Some(2), 32, 18, Some(144)),
            ("Q4_1", Some(3), 32, 20, Some(160)),
            ("Q5_0", Some(6), 32, 22, Some(176)),
            ("Q5_1", Some(7), 32, 24, Some(192)),
            ("Q8_0", Some(8), 32, 34, Some(272)),
            ("Q4_K", Some(12), 256, 144, Some(144)),
            ("Q5_K", Some(13), 256, 176, Some(176)),
            ("Q6_K", Some(14), 256, 210, Some(210)),
            ("IQ4_NL", Some(20), 32, 18, Some(144)),
            ("NF4", None, 64, 36, Some(144)),
            ("INT8", None, 32, 36, Some(288)),
        ]
    );
}

#[test]
fn each_format_is_found_by_number_and_by_name() {
    for format in ALL {
        let name = format.name();
        assert_eq!(by_name(name).map(BlockFormat::name), Some(name));
        if let Some(id) = format.ggml_type() {
            assert_eq!(by_ggml_type(id).map(BlockFormat::name), Some(name));
        }
    }
    assert!(by_ggml_type(4).is_none(), "a number that GGUF withdrew");
    assert!(by_ggml_type(u32::MAX).is_none());
    assert!(by_name("q8_0").is_none());
    assert!(by_name("").is_none());
}

#[test]
fn row_bytes_refuses_partial_blocks_and_overflow() {
    assert_eq!(Q8_0.row_bytes(0), Some(0));
    assert_eq!(Q8_0.row_bytes(33), None);
    assert_eq!(Q4_1.row_bytes(16), None);
    assert_eq!(Q4_K.row_bytes(576), None);
    assert_eq!(F32.row_bytes(usize::MAX), None);
    assert_eq!(F16.row_bytes(usize::MAX / 2), Some(usize::MAX - 1));
    assert_eq!(Q8_0.row_bytes(usize::MAX - 31), None);
}

#[test]
fn block_count_counts() {
    assert_eq!(block_count(&Q4_0, 54, 96), 3);
    assert_eq!(block_count(&BF16, 0, 0), 0);
}

#[test]
#[should_panic(expected = "Q4_0: 33 values are not whole blocks of 32 values")]
fn encode_refuses_a_partial_block_of_values() {
    Q4_0.encode(&[0.0; 33], &mut [0; 18]);
}

#[test]
#[should_panic(expected = "Q8_0: 35 bytes are not whole blocks of 34 bytes")]
fn decode_refuses_a_partial_block_of_bytes() {
    Q8_0.decode(&[0; 35], &mut [0.0; 32]);
}

#[test]
#[should_panic(expected = "Q4_1: 64 values are 2 blocks, but 20 bytes are 1")]
fn decode_refuses_unequal_lengths() {
    Q4_1.decode(&[0; 20], &mut [0.0; 64]);
}
