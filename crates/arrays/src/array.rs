//! An array of numbers.

/// Numbers in row-major order.
#[derive(Clone, Debug, PartialEq)]
pub struct Array {
    /// Size of each axis.
    pub shape: Vec<usize>,
    /// The numbers.
    pub data: Vec<f32>,
}

/// Most axes of an array: what anybody shares has two.
pub(crate) const MOST_AXES: usize = 8;

impl Array {
    /// An array.
    ///
    /// # Panics
    /// Where the shape does not have as many elements.
    pub fn new(shape: Vec<usize>, data: Vec<f32>) -> Self {
        assert_eq!(elements(&shape), Some(data.len()), "Array: shape {shape:?}");
        Self { shape, data }
    }

    /// `[rows, columns]` to `[columns, rows]`.
    ///
    /// # Panics
    /// Where it is no matrix.
    pub fn transposed(self) -> Self {
        let &[rows, columns] = &self.shape[..] else {
            panic!("Array: a matrix has two axes, not {:?}", self.shape);
        };
        Self::new(
            vec![columns, rows],
            strided(&self.data, &[columns, rows], 0, &[1, columns]),
        )
    }
}

/// Number of elements; none where it is beyond `usize`.
pub(crate) fn elements(shape: &[usize]) -> Option<usize> {
    shape.iter().try_fold(1_usize, |n, &axis| n.checked_mul(axis))
}

/// The elements of a view in row-major order. Every one of them lies in `data`.
pub(crate) fn strided(data: &[f32], shape: &[usize], offset: usize, strides: &[usize]) -> Vec<f32> {
    let n = elements(shape).expect("the caller has checked the shape");
    let mut out = Vec::with_capacity(n);
    if n == 0 {
        return out;
    }
    let (&row, outer) = shape.split_last().unwrap_or((&1, &[]));
    let step = strides.last().copied().unwrap_or(1);
    let mut index = vec![0_usize; outer.len()];
    loop {
        let start = offset + index.iter().zip(strides).map(|(i, stride)| i * stride).sum::<usize>();
        out.extend((0..row).map(|i| data[start + i * step]));
        // The last outer axis moves fastest.
        let Some(axis) = (0..outer.len()).rev().find(|&axis| index[axis] + 1 < outer[axis]) else {
            return out;
        };
        index[axis] += 1;
        index[axis + 1..].fill(0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_view_is_read_in_row_major_order() {
        let data: Vec<f32> = (0..24).map(|i| i as f32).collect();
        assert_eq!(strided(&data, &[2, 3], 4, &[10, 2]), [4.0, 6.0, 8.0, 14.0, 16.0, 18.0]);
        let wanted = [0.0, 6.0, 1.0, 7.0, 12.0, 18.0, 13.0, 19.0];
        assert_eq!(strided(&data, &[2, 2, 2], 0, &[12, 1, 6]), wanted);
        assert_eq!(strided(&data, &[], 5, &[]), [5.0]);
        assert!(strided(&data, &[3, 0], 5, &[1, 1]).is_empty());
        assert_eq!(
            Array::new(vec![2, 3], data[..6].to_vec()).transposed().data,
            [0.0, 3.0, 1.0, 4.0, 2.0, 5.0]
        );
    }
}
