//! Rotations of a weight's rows by parameters that may learn.

use pipe_ops::{Cx, Var, op};

/// `Rᵀ·W` of a weight `[out, in]` in f32, R in blocks of rows (OFT, Qiu et al. 2023): `parts` are the generators
/// `[K, n, n]` of rows behind each other, each with its own longest norm, `constraint` for each row. `lengths [out, 1]`
/// multiply the rows then.
pub fn blocks(cx: &Cx, w: &Var, parts: &[Var], constraint: f32, lengths: Option<&Var>) -> Var {
    let width = w.dim(1);
    let mut start = 0;
    let turned: Vec<Var> = parts
        .iter()
        .map(|s| {
            let (k, n) = (s.dim(0), s.dim(1));
            let rotation = op::cayley_transposed(cx, s, constraint * (k * n) as f32);
            let rows = op::narrow(cx, w, 0, start, k * n);
            start += k * n;
            let turned = op::matmul(cx, &rotation, &op::reshape(cx, &rows, &[k, n, width]));
            op::reshape(cx, &turned, &[k * n, width])
        })
        .collect();
    rescaled(cx, op::concat(cx, &turned.iter().collect::<Vec<_>>(), 0), lengths)
}

/// `R_m·…·R_1·W` of butterfly rotations (BOFT, Liu et al. 2023) as LyCORIS has them: generators `[m, K, n, n]`, of which
/// the i-th stage turns rows that stand `2^i·n/2` apart. All stages share one longest norm, `constraint` for each row.
pub fn butterfly(cx: &Cx, w: &Var, generators: &Var, constraint: f32, lengths: Option<&Var>) -> Var {
    let (m, k, n) = (generators.dim(0), generators.dim(1), generators.dim(2));
    let (out, width) = (w.dim(0), w.dim(1));
    // R is Rᵀ of Sᵀ.
    let flat = op::permute(cx, generators, &[m * k, n, n], &[0, 2, 1]);
    let rotations = op::cayley_transposed(cx, &op::reshape(cx, &flat, &[m * k, n, n]), constraint * (k * n) as f32);
    let mut x = w.clone();
    for stage in 0..m {
        let apart = (1 << stage) * n / 2;
        let groups = out / (2 * apart);
        let mixed = op::permute(cx, &x, &[groups, 2, apart, width], &[0, 2, 1, 3]);
        let rotation = op::narrow(cx, &rotations, 0, stage * k, k);
        let turned = op::matmul(cx, &rotation, &op::reshape(cx, &mixed, &[k, n, width]));
        let back = op::permute(cx, &turned, &[groups, apart, 2, width], &[0, 2, 1, 3]);
        x = op::reshape(cx, &back, &[out, width]);
    }
    rescaled(cx, x, lengths)
}

/// Each row times its length.
fn rescaled(cx: &Cx, w: Var, lengths: Option<&Var>) -> Var {
    let Some(lengths) = lengths else { return w };
    let (out, width) = (w.dim(0), w.dim(1));
    let rows = op::gate(cx, &op::reshape(cx, &w, &[out, width, 1]), lengths);
    op::reshape(cx, &rows, &[out, width])
}
