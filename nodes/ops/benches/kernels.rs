//! Times of the CPU kernels at the sizes of the quickstart and of SD 1.5. `cargo bench -p pipe-ops`.

use std::time::Instant;

use pipe_ops::host::conv::{self, Sizes};
use pipe_ops::host::{attention, norm};

fn time(name: &str, flops: f64, mut f: impl FnMut()) {
    f();
    let start = Instant::now();
    let mut n = 0;
    while n < 3 || start.elapsed().as_secs_f64() < 0.4 {
        f();
        n += 1;
    }
    let each = start.elapsed().as_secs_f64() / n as f64;
    println!("{name:44} {:9.2} ms {:8.1} GFLOP/s", each * 1e3, flops / each / 1e9);
}

fn main() {
    for (name, b, c, side, o) in [
        ("conv 8×32→32 64²", 8, 32, 64, 32),
        ("conv 8×64→64 32²", 8, 64, 32, 64),
        ("conv 16×96→96 8²", 16, 96, 8, 96),
        ("conv 1×320→320 32²", 1, 320, 32, 320),
    ] {
        let s = Sizes { b, c, h: side, w: side, o, kh: 3, kw: 3, stride: 1, pad: [1; 4] };
        let (x, w) = (vec![0.5f32; b * c * side * side], vec![0.1f32; o * c * 9]);
        let gy = vec![0.2f32; b * o * side * side];
        let flops = 2.0 * (b * o * c * 9 * side * side) as f64;
        time(name, flops, || drop(conv::conv2d(s, &x, &w, None)));
        time(&format!("{name} input gradient"), flops, || drop(conv::conv2d_input_backward(s, &w, &gy)));
        time(&format!("{name} weight gradient"), flops, || drop(conv::conv2d_weight_backward(s, &x, &gy)));
    }
    let (b, c, n) = (8, 32, 64 * 64);
    let (x, w) = (vec![0.5f32; b * c * n], vec![1.0f32; c]);
    let stats = norm::group_norm(&x, b, c, 8, &w, &w, 1e-6, true).1;
    time("group norm + silu 8×32×64²", 0.0, || drop(norm::group_norm(&x, b, c, 8, &w, &w, 1e-6, true)));
    time("its gradient", 0.0, || drop(norm::group_norm_backward(&x, &x, &stats, b, c, 8, &w, &w, true)));
    let s =
        attention::Sizes { b: 1, h: 8, kv: 8, sq: 1024, sk: 1024, d: 40, scale: 0.158, causal: false, softcap: 0.0 };
    let none = attention::Extras::default();
    let q = vec![0.1f32; 1024 * 320];
    let (o, lse) = attention::attention(s, &q, &q, &q, none);
    time("attention 8×1024×40", 4.0 * 1024.0 * 1024.0 * 320.0, || drop(attention::attention(s, &q, &q, &q, none)));
    time("its gradient", 10.0 * 1024.0 * 1024.0 * 320.0, || {
        drop(attention::attention_backward(s, &q, &q, &q, none, &o, &lse, &q, false))
    });
}
