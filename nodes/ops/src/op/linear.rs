//! Linear layers and embeddings, PyTorch layout `[out, in]`.

use super::{Place, host, meta, place};
use crate::host as kernels;
use crate::host::gemm::{Mat, gemm_into, matmul};
use crate::{Cx, DType, Device, Tensor, Var};

/// `x·Wᵀ + b`: `x [.., in]`, `w [out, in]`, `b [out]`.
pub fn linear(cx: &Cx, x: &Var, w: &Var, b: Option<&Var>) -> Var {
    let (o, k) = (w.dim(0), w.dim(1));
    let rows = x.value.len() / k.max(1);
    let mut shape = x.shape().to_vec();
    assert_eq!(shape.last(), Some(&k), "linear: input {shape:?} for weight {:?}", w.shape());
    if let Some(last) = shape.last_mut() {
        *last = o;
    }
    cx.flops(2 * rows * o * k);
    let y = match place(cx, &x.value) {
        Place::Meta => meta(&x.value, &shape),
        Place::Host => {
            let (xs, ws) = (host(&x.value), host(&w.value));
            let mut out = kernels::buffer(rows * o);
            let keep = if let Some(b) = b {
                let b = host(&b.value);
                for row in out.chunks_mut(o) {
                    row.copy_from_slice(&b);
                }
                1.0
            } else {
                0.0
            };
            gemm_into(&mut out, o, Mat::new(&xs, rows, k), Mat::new(&ws, o, k).t(), keep, 1.0, true);
            Tensor::host(out, &shape)
        }
        Place::Burn => {
            let y = x.value.reshape_burn([rows, k]).matmul(w.value.burn::<2>().transpose());
            let y = match b {
                Some(b) => y + b.value.reshape_burn([1, o]),
                None => y,
            };
            Tensor::from_burn(y).reshape(&shape)
        }
    };
    let xshape = x.shape().to_vec();
    // Only what the gradients asked for need is kept: the weight for x, x for a trainable weight.
    let xv = w.tracked().then(|| x.value.clone());
    let wv = x.tracked().then(|| w.kept());
    let back = move |cx: &Cx, gy: Tensor, need: &[bool]| {
        let gx = wv.filter(|_| need[0]).map(|w| product(cx, &gy, &w.tensor(cx), rows, o, k).reshape(&xshape));
        let gw = xv.filter(|_| need[1]).map(|x| outer(cx, &gy, &x, rows, o, k));
        let mut out = vec![gx, gw];
        if need.len() > 2 {
            out.push(need[2].then(|| sum_rows(cx, &gy, rows, o)));
        }
        out
    };
    match b {
        Some(b) => cx.record(y, &[x, w, b], back),
        None => cx.record(y, &[x, w], back),
    }
}

/// `gy [R, O]·w [O, K]`.
fn product(cx: &Cx, gy: &Tensor, w: &Tensor, rows: usize, o: usize, k: usize) -> Tensor {
    cx.flops(2 * rows * o * k);
    match place(cx, gy) {
        Place::Meta => meta(gy, &[rows, k]),
        Place::Host => Tensor::host(matmul(Mat::new(&host(gy), rows, o), Mat::new(&host(w), o, k)), &[rows, k]),
        Place::Burn => Tensor::from_burn(gy.reshape_burn([rows, o]).matmul(w.burn::<2>())),
    }
}

/// `gyᵀ [O, R]·x [R, K]`.
fn outer(cx: &Cx, gy: &Tensor, x: &Tensor, rows: usize, o: usize, k: usize) -> Tensor {
    cx.flops(2 * rows * o * k);
    match place(cx, gy) {
        Place::Meta => meta(gy, &[o, k]),
        Place::Host => Tensor::host(matmul(Mat::new(&host(gy), rows, o).t(), Mat::new(&host(x), rows, k)), &[o, k]),
        Place::Burn => Tensor::from_burn(gy.reshape_burn([rows, o]).transpose().matmul(x.reshape_burn([rows, k]))),
    }
}

/// Sum over rows, `[O]`.
pub(super) fn sum_rows(cx: &Cx, gy: &Tensor, rows: usize, o: usize) -> Tensor {
    cx.flops(rows * o);
    match place(cx, gy) {
        Place::Meta => meta(gy, &[o]),
        Place::Host => {
            let g = host(gy);
            let mut out = kernels::buffer(o);
            for row in g.chunks(o) {
                kernels::act::add_assign(&mut out, row);
            }
            Tensor::host(out, &[o])
        }
        Place::Burn => {
            let sum = gy.cast(DType::F32).reshape_burn([rows, o]).sum_dim(0).reshape([o]);
            Tensor::from_burn(sum).cast(gy.dtype())
        }
    }
}

/// Rows `ids` of `table [V, D]`: `[ids.len(), D]`.
pub fn embedding(cx: &Cx, table: &Var, ids: &[u32]) -> Var {
    let (v, d) = (table.dim(0), table.dim(1));
    assert!(ids.iter().all(|&i| (i as usize) < v), "token id outside the table");
    let y = match place(cx, &table.value) {
        Place::Meta => meta(&table.value, &[ids.len(), d]),
        Place::Host => {
            let t = host(&table.value);
            let mut out = kernels::buffer(ids.len() * d);
            for (o, &i) in out.chunks_mut(d).zip(ids) {
                o.copy_from_slice(&t[i as usize * d..(i as usize + 1) * d]);
            }
            Tensor::host(out, &[ids.len(), d])
        }
        Place::Burn => {
            let Device::Burn(device) = &cx.device else { unreachable!("burn body without burn device") };
            Tensor::from_burn(table.value.burn::<2>().select(0, Device::indices(device, ids)))
        }
    };
    let ids = ids.to_vec();
    cx.record(y, &[table], move |cx, gy, _| {
        let grad = match place(cx, &gy) {
            Place::Meta => meta(&gy, &[v, d]),
            Place::Host => {
                let g = host(&gy);
                let mut out = kernels::buffer(v * d);
                for (g, &i) in g.chunks(d).zip(&ids) {
                    kernels::act::add_assign(&mut out[i as usize * d..(i as usize + 1) * d], g);
                }
                Tensor::host(out, &[v, d])
            }
            Place::Burn => {
                let Device::Burn(device) = &cx.device else { unreachable!("burn body without burn device") };
                let zeros = burn::Tensor::<2>::zeros([v, d], device).cast(gy.burn::<2>().dtype());
                let sum = zeros.select_assign(
                    0,
                    Device::indices(device, &ids),
                    gy.burn::<2>(),
                    burn::tensor::IndexingUpdateOp::Add,
                );
                Tensor::from_burn(sum)
            }
        };
        vec![Some(grad)]
    })
}
