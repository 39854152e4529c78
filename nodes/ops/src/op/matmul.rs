//! Products of two matrices that may both learn: the factors of adapters.

use super::{Place, host, meta, place};
use crate::host as kernels;
use crate::host::gemm::{Mat, gemm_into};
use crate::{Cx, Tensor, Var};

/// `a·b`: `[M, K]·[K, N]` → `[M, N]`, or `[G, M, K]·[G, K, N]` → `[G, M, N]`, group by group.
pub fn matmul(cx: &Cx, a: &Var, b: &Var) -> Var {
    let y = product(cx, &a.value, false, &b.value, false);
    let (av, bv) = (b.tracked().then(|| a.value.clone()), a.tracked().then(|| b.value.clone()));
    cx.record(y, &[a, b], move |cx, gy, need| {
        let ga = bv.filter(|_| need[0]).map(|b| product(cx, &gy, false, &b, true));
        let gb = av.filter(|_| need[1]).map(|a| product(cx, &a, true, &gy, false));
        vec![ga, gb]
    })
}

/// Groups, rows and columns.
fn sizes(x: &Tensor) -> [usize; 3] {
    match *x.shape() {
        [m, n] => [1, m, n],
        [g, m, n] => [g, m, n],
        ref other => panic!("matmul of shape {other:?}"),
    }
}

/// The product of `a` and `b`, either of them transposed where said.
pub(super) fn product(cx: &Cx, a: &Tensor, a_t: bool, b: &Tensor, b_t: bool) -> Tensor {
    let ([g, ar, ac], [bg, br, bc]) = (sizes(a), sizes(b));
    let (m, k) = if a_t { (ac, ar) } else { (ar, ac) };
    let (bk, n) = if b_t { (bc, br) } else { (br, bc) };
    assert!(g == bg && k == bk, "matmul of {:?} and {:?}", a.shape(), b.shape());
    cx.flops(2 * g * m * k * n);
    let shape = if a.shape().len() == 2 { vec![m, n] } else { vec![g, m, n] };
    match place(cx, a) {
        Place::Meta => meta(a, &shape),
        Place::Host => {
            let (x, y) = (host(a), host(b));
            let mut out = kernels::buffer(g * m * n);
            for (i, out) in out.chunks_mut((m * n).max(1)).enumerate() {
                let left = Mat::new(&x[i * ar * ac..(i + 1) * ar * ac], ar, ac);
                let right = Mat::new(&y[i * br * bc..(i + 1) * br * bc], br, bc);
                let (left, right) = (if a_t { left.t() } else { left }, if b_t { right.t() } else { right });
                gemm_into(out, n, left, right, 0.0, 1.0, true);
            }
            Tensor::host(out, &shape)
        }
        Place::Burn => {
            let (x, y) = (a.reshape_burn([g, ar, ac]), b.reshape_burn([g, br, bc]));
            let (x, y) = (if a_t { x.swap_dims(1, 2) } else { x }, if b_t { y.swap_dims(1, 2) } else { y });
            Tensor::from_burn(x.matmul(y)).reshape(&shape)
        }
    }
}
