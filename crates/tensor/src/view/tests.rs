//! Views read and write exactly the elements their shape and strides name.

use std::vec;
use std::vec::Vec;

use proptest::prelude::*;

use super::{Mat, MatMut, Order};

#[test]
fn transposed_reads_swap_indices() {
    let data = [1, 2, 3, 4, 5, 6];
    let m = Mat::new(&data, 2, 3);
    for i in 0..2 {
        for j in 0..3 {
            assert_eq!(m.get(i, j), data[i * 3 + j]);
            assert_eq!(m.t().get(j, i), m.get(i, j));
        }
    }
    assert_eq!(m.contiguous().map(|c| c.1), Some(Order::RowMajor));
    assert_eq!(m.t().contiguous().map(|c| c.1), Some(Order::ColMajor));
    assert_eq!(m.cols_range(0..2).contiguous(), None);
    assert_eq!(m.cols_range(1..3).row(1), &[5, 6]);
}

#[test]
fn empty_views_are_fine_everywhere() {
    let mut data: [f32; 0] = [];
    let m = MatMut::new(&mut data, 0, 4);
    let (a, b) = m.split_cols(2);
    assert_eq!((a.rows(), a.cols(), b.cols()), (0, 2, 2));
    let (a, b) = MatMut::new(&mut data, 3, 0).split_rows(1);
    assert_eq!((a.rows(), b.rows(), b.row(1).len()), (1, 2, 0));
}

#[test]
#[should_panic(expected = "row as a slice needs column stride 1")]
fn a_strided_row_is_not_a_slice() {
    let _ = Mat::new(&[1, 2, 3, 4], 2, 2).t().row(0);
}

#[test]
#[should_panic(expected = "a 2 x 3 view over 5 elements")]
fn a_view_longer_than_its_slice_is_refused() {
    let _ = Mat::new(&[0; 5], 2, 3);
}

#[test]
#[should_panic(expected = "with strides")]
fn overflowing_strides_are_refused() {
    let _ = Mat::strided(&[0; 5], usize::MAX, 2, usize::MAX, 1);
}

proptest! {
    #[test]
    fn parts_of_a_split_are_disjoint_and_cover(
        rows in 0_usize..9, cols in 0_usize..9, r in 0_usize..9, c in 0_usize..9,
    ) {
        let (r, c) = (r.min(rows), c.min(cols));
        let mut data = vec![0; rows * cols];
        let (top, bottom) = MatMut::new(&mut data, rows, cols).split_rows(r);
        let (tl, tr) = top.split_cols(c);
        let (bl, br) = bottom.split_cols(c);
        for (value, mut part) in [(1, tl), (2, tr), (3, bl), (4, br)] {
            part.fill(value);
        }
        for i in 0..rows {
            for j in 0..cols {
                let want = 1 + usize::from(j >= c) + 2 * usize::from(i >= r);
                prop_assert_eq!(data[i * cols + j], want);
            }
        }
    }

    #[test]
    fn copying_between_layouts_keeps_every_element(rows in 1_usize..7, cols in 1_usize..7) {
        let from: Vec<usize> = (0..rows * cols).collect();
        let mut to = vec![0; rows * cols];
        MatMut::new(&mut to, cols, rows).t().copy_from(Mat::new(&from, rows, cols));
        for i in 0..rows {
            for j in 0..cols {
                prop_assert_eq!(to[j * rows + i], from[i * cols + j]);
            }
        }
    }
}
