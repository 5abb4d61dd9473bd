//! Lagrange's polynomials.

/// The polynomial that is 1 at node `j` and 0 at the others.
pub(super) fn lagrange(nodes: &[f64], j: usize, at: f64) -> f64 {
    let Some(own) = nodes.get(j) else { return 0.0 };
    let others = nodes.iter().enumerate().filter(|(k, _)| *k != j);
    others.map(|(_, other)| (at - other) / (own - other)).product()
}

/// The coefficients, the constant first, of the polynomial that is 1 at node `j` and 0 at the others.
pub(super) fn lagrange_coefficients(nodes: &[f64], j: usize) -> Vec<f64> {
    let own = nodes.get(j).copied().unwrap_or(0.0);
    let others = nodes.iter().enumerate().filter(|(k, _)| *k != j);
    others.fold(vec![1.0], |polynomial, (_, node)| {
        let mut product = vec![0.0; polynomial.len() + 1];
        for (power, coefficient) in polynomial.iter().enumerate() {
            product[power] -= coefficient * node / (own - node);
            product[power + 1] += coefficient / (own - node);
        }
        product
    })
}
