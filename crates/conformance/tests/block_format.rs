//! Every block format that is known passes the suite.

use lowtide_conformance::block_format;
use lowtide_quant::formats::ALL;

#[test]
fn the_known_formats_conform() {
    ALL.iter().for_each(|&format| block_format(format));
}
