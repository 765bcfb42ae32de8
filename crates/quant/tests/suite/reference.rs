//! The rows that the gguf package packed and unpacked.

use crate::{decode, encode};
use lowtide_quant::formats::by_name;
use lowtide_testkit::golden;

#[test]
fn bytes_and_values_are_those_of_the_gguf_package() {
    let path = golden::golden_dir().join("quant/blocks.safetensors");
    let file = golden::load_safetensors(&path);
    for name in ["F16", "BF16", "Q4_0", "Q4_1", "Q8_0"] {
        let format = by_name(name).unwrap();
        let bytes = golden::load_raw(&path, &format!("{name}.bytes"));
        assert_eq!(encode(format, &file["rows"].data), bytes, "{name}");
        let decoded = &file[&format!("{name}.decoded")].data;
        assert_eq!(&decode(format, &bytes), decoded, "{name}");
    }
}
