//! Ends, edges and faults of schedules; every step of them is compared with PyTorch in `tests/objectives.rs`.

use super::*;

#[test]
fn stays_at_the_end_past_the_end() {
    let warmup = Some(Length::steps(10));
    let cosine = Schedule::Cosine { warmup: warmup.clone() };
    assert!((cosine.factor(55, 100) - 0.5).abs() < 1e-12);
    // The reference climbs again here.
    assert!(cosine.factor(150, 100).abs() < 1e-12);
    let linear = Schedule::Linear { warmup };
    assert_eq!(linear.factor(200, 100), 0.0);
}

#[test]
fn lengths_and_orders_are_checked() {
    let long = Schedule::Cosine { warmup: Some(Length::steps(100)) };
    assert_eq!(long.check(100).unwrap_err().field, "warmup");
    assert!(long.check(101).is_ok());
    let both = Schedule::Linear { warmup: Some(Length { steps: Some(3), ratio: Some(0.1) }) };
    assert_eq!(both.check(100).unwrap_err().field, "warmup.ratio");
    let decay = |cycles| Schedule::WarmupStableDecay {
        warmup: Some(Length::ratio(0.6)),
        decay: Length::ratio(0.5),
        min_ratio: 0.0,
        warmup_type: Ramp::Linear,
        decay_type: Ramp::Linear,
        cycles,
    };
    assert_eq!(decay(1).check(100).unwrap_err().field, "decay");
    let piece = |factor, until| Piece { factor, until: Length::steps(until) };
    let pieces = Schedule::PiecewiseConstant { pieces: vec![piece(1.0, 20), piece(0.5, 10)], rest: 0.1 };
    assert_eq!(pieces.check(100).unwrap_err().field, "pieces[1].until");
}

#[test]
fn names_follow_the_warmup() {
    assert_eq!(Schedule::default().name(100), "constant");
    assert_eq!(Schedule::Constant { warmup: Some(Length::ratio(0.1)) }.name(100), "constant_with_warmup");
    // A tenth of five steps is none.
    assert_eq!(Schedule::Constant { warmup: Some(Length::ratio(0.1)) }.name(5), "constant");
}

#[test]
fn documents_read_and_write() {
    let text = r#"{"type":"warmup_stable_decay","warmup":{"steps":4},"decay":{"ratio":0.2},"decay_type":"1-sqrt"}"#;
    let schedule: Schedule = serde_json::from_str(text).unwrap();
    let again: Schedule = serde_json::from_str(&serde_json::to_string(&schedule).unwrap()).unwrap();
    assert_eq!(schedule, again);
    assert!(schedule.check(100).is_ok());
}
