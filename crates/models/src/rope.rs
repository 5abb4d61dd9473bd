//! Where tokens are, as angles by which queries and keys turn (Su et al., <https://arxiv.org/abs/2104.09864>): a token
//! has several ids, each of which turns a part of a head's features.

use distorch_runtime::kernels::Rotation;

/// The angles of all tokens: `axes` are the features that each id turns, `theta` is the longest period.
pub(crate) fn rotation<const N: usize>(
    axes: [usize; N],
    theta: f64,
    ids: &[[usize; N]],
) -> Rotation {
    let ids: Vec<_> = ids.iter().map(|ids| ids.map(|id| id as f64)).collect();
    rotation_at(axes, theta, &ids)
}

/// As [`rotation`], with ids that may be below 0.
pub(crate) fn rotation_at<const N: usize>(
    axes: [usize; N],
    theta: f64,
    ids: &[[f64; N]],
) -> Rotation {
    let each = || axes.into_iter().enumerate();
    let frequencies = each().flat_map(|(axis, features)| {
        let frequency = move |at| theta.powf(-(at as f64) / features as f64);
        (0..features).step_by(2).map(move |at| (axis, frequency(at)))
    });
    let frequencies: Vec<(usize, f64)> = frequencies.collect();
    let angles = |ids: &[f64; N]| {
        let angle =
            |(axis, frequency): &(usize, f64)| ids.get(*axis).map_or(0.0, |id| id * frequency);
        frequencies.iter().map(angle).collect::<Vec<_>>()
    };
    let angles: Vec<f64> = ids.iter().flat_map(angles).collect();
    Rotation::new(axes.iter().sum(), &angles)
}
