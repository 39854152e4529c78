//! Pickles: names that run code, and programs that would take all memory or break the machine.

use super::Case;
use super::common::torch::*;

/// What an attacker would call, and how it is named in the message.
const FORBIDDEN: [(&str, &str); 16] = [
    ("os", "system"),
    ("posix", "system"),
    ("nt", "system"),
    ("subprocess", "Popen"),
    ("builtins", "eval"),
    ("builtins", "exec"),
    ("builtins", "getattr"),
    ("__builtin__", "eval"),
    ("runpy", "run_path"),
    ("importlib", "import_module"),
    ("torch.storage", "_load_from_bytes"),
    ("torch.serialization", "load"),
    ("torch.nn.modules.linear", "Linear"),
    ("numpy.core.multiarray", "_reconstruct"),
    ("pytorch_lightning.callbacks_evil", "run"),
    ("pytorch_lightning.trainer.trainer", "Trainer"),
];

pub fn cases() -> Vec<Case> {
    let zip_of = |body: &[u8]| zip(body);
    let float = || storage("FloatStorage", "0", 2);
    let a = |value: Vec<u8>| dict(&[("a", value)]);
    let mut cases = Vec::new();
    for (module, name) in FORBIDDEN {
        let full = format!("`{module}.{name}`");
        let payload = call(module, name, &[text("echo pwned")]);
        cases.push(Case::new(
            format!("{full} in a zip"),
            zip(&dict(&[("state_dict", a(payload.clone()))])),
            full.clone(),
        ));
        cases.push(Case::new(format!("{full} in an old file"), old(&payload, &[]), full.clone()));
    }
    let stacked = |module: &str, name: &str| [text(module), text(name), b"\x93)R".to_vec()].concat();
    let nested = [program(b"N"), program(b"N")].concat();
    let scalar = call("numpy.core.multiarray", "scalar", &[text("x"), stacked("os", "popen")]);
    let first = [&b"\x80\x02"[..], &global("os", "system"), b")R."].concat();
    let keys = [old_head(), program(b"}"), program(&stacked("builtins", "compile"))].concat();
    let optimizer = dict(&[("state_dict", one()), ("optimizer_states", stacked("builtins", "open"))]);
    let load = call(
        "torch.storage",
        "_load_from_bytes",
        &[[b"B", &(nested.len() as u32).to_le_bytes()[..], &nested].concat()],
    );
    for (name, bytes, wanted) in [
        ("name from the stack", zip(&stacked("builtins", "eval")), "`builtins.eval`"),
        ("attribute of a listed name", zip(&stacked("torch._utils", "_rebuild_tensor_v2.__globals__")), "__globals__`"),
        ("listed module, other name", zip(&stacked("torch", "load")), "`torch.load`"),
        ("listed name, other module", zip(&stacked("evil", "OrderedDict")), "`evil.OrderedDict`"),
        ("a pickle inside", zip(&a(load)), "`torch.storage._load_from_bytes`"),
        ("as an argument", zip(&scalar), "`os.popen`"),
        ("in the first pickle", first, "`os.system`"),
        ("in the list of storages", keys, "`builtins.compile`"),
        ("beside the weights", zip(&optimizer), "`builtins.open`"),
        ("in a name's name", zip(&global("os\u{7}\u{1b}[31m", &"x".repeat(400))), "xxx…`"),
        (
            "callback as a function of a state",
            zip(&[global("pytorch_lightning.callbacks", "X"), b"N}b".to_vec()].concat()),
            "attributes",
        ),
    ] {
        cases.push(Case::new(name, bytes, wanted));
    }
    // What the machine cannot do, and what it has too little or too much of.
    for (name, body, wanted) in [
        ("call of a text", [text("os"), b")R".to_vec()].concat(), "it calls a text"),
        ("call of a tensor", [tensor(float(), 0, &[2], &[1]), b")R".to_vec()].concat(), "it calls a tensor"),
        ("call without a tuple", [global("collections", "OrderedDict"), b"]R".to_vec()].concat(), "not a tuple"),
        ("too few arguments", call("torch._utils", "_rebuild_tensor_v2", &[float()]), "do not fit"),
        ("dictionary of texts", call("collections", "OrderedDict", &[tuple(&[text("a")])]), "other than pairs"),
        ("encoding as something else", call("_codecs", "encode", &[text("a"), text("rot13")]), "do not fit"),
        ("a storage by a call", call("torch", "FloatStorage", &[int(1 << 40)]), "makes a storage by a call"),
        ("instance of a function", [global("torch._utils", "_rebuild_tensor"), b")\x81".to_vec()].concat(), "instance"),
        ("attributes of a list", b"]}b".to_vec(), "gives attributes to a list"),
        (
            "a parameter of a text",
            call("torch._utils", "_rebuild_parameter", &[text("a"), int(0), int(0)]),
            "made of a text",
        ),
        ("INST", b"(ios\nsystem\n".to_vec(), "operation 0x69"),
        ("OBJ", b"(N)o".to_vec(), "operation 0x6f"),
        ("EXT1", b"\x82\x01".to_vec(), "operation 0x82"),
        ("PERSID", b"Pos\n".to_vec(), "operation 0x50"),
        ("NEWOBJ_EX", b"N)}\x92".to_vec(), "operation 0x92"),
        ("NEXT_BUFFER", b"\x97".to_vec(), "operation 0x97"),
        ("protocol 9", b"\x80\x09}".to_vec(), "protocol 9"),
        ("empty stack", vec![], "takes a value where there is none"),
        ("below an open container", b"}(R".to_vec(), "takes a value where there is none"),
        ("tuple never opened", b"t".to_vec(), "not open"),
        ("list never opened", b"]Ne".to_vec(), "not open"),
        ("nothing to append to", b"(Ne".to_vec(), "fills a container where there is none"),
        ("append to a dictionary", b"}Na".to_vec(), "appends to a dictionary"),
        ("items of a list", b"](NNu".to_vec(), "sets items of a list"),
        ("a name without value", b"}(Nu".to_vec(), "without a value"),
        ("number never given", b"h\x07".to_vec(), "never numbered"),
        ("memo of four billion", b"}r\xff\xff\xff\xff".to_vec(), "beyond the limit"),
        ("get of four billion", b"}j\xff\xff\xff\xff".to_vec(), "never numbered"),
        ("text of four gigabytes", b"X\xff\xff\xff\xff".to_vec(), "more than the limit"),
        ("bytes of four gigabytes", b"B\xff\xff\xff\xff".to_vec(), "more than the limit"),
        ("text longer than the file", b"X\xff\xff\x00\x00abc".to_vec(), "ends in the middle"),
        ("number longer than the file", b"\x8a\xff\x01".to_vec(), "ends in the middle"),
        ("frame longer than the file", b"\x95\xff\xff\xff\xff\xff\xff\xff\x7f".to_vec(), "a frame of"),
        ("text that is not UTF-8", b"X\x02\0\0\0\xff\xfe".to_vec(), "not UTF-8"),
        ("name without end", [&b"c"[..], &[b'a'; 5000]].concat(), "has no end"),
        ("name that is not UTF-8", b"c\xff\n\xfe\n".to_vec(), "not UTF-8"),
        ("stack of 600 000", vec![b'N'; 600_000], "on its stack"),
        ("300 000 dictionaries", vec![b'}'; 300_000], "containers and tensors"),
        ("tuples 300 000 deep", [&b")"[..], &[0x85; 300_000]].concat(), "containers and tensors"),
        ("2000 open containers", vec![b'('; 2000], "open at a time"),
        ("values without end", values(), "values into containers"),
        ("a laugh", laughs(), "no entry of its dictionary is a tensor"),
        ("a dictionary in itself", [b"}q\0", &text("state_dict")[..], b"h\0s"].concat(), "no entry of its dictionary"),
        ("a list", b"]".to_vec(), "holds a list"),
        ("a tensor alone", tensor(float(), 0, &[2], &[1]), "holds a tensor"),
        ("a state that is a list", dict(&[("state_dict", b"]".to_vec())]), "`state_dict` is a list"),
        ("only other things", dict(&[("model", b"}".to_vec()), ("step", int(3))]), "it has `model`, `step`"),
        (
            "tensor named by a number",
            [b"}", &int(0)[..], &tensor(float(), 0, &[2], &[1]), b"s"].concat(),
            "is a number, not a text",
        ),
        ("persistent id of a text", [text("os"), b"Q".to_vec()].concat(), "not that of a storage"),
        (
            "persistent id of a module",
            [tuple(&[text("module"), text("os"), text("a"), text("b"), int(1)]), b"Q".to_vec()].concat(),
            "not that of a storage",
        ),
        (
            "storage of no type",
            [tuple(&[text("storage"), global("torch", "Size"), text("0"), text("cpu"), int(1)]), b"Q".to_vec()]
                .concat(),
            "not that of a storage",
        ),
        ("storage of negative length", storage("FloatStorage", "0", -1), "is negative (-1)"),
        ("tensor of a text", a(tensor(text("0"), 0, &[2], &[1])), "made of a text"),
        ("negative size", a(tensor(float(), 0, &[-2], &[1])), "is negative (-2)"),
        ("negative stride", a(tensor(float(), 1, &[2], &[-1])), "is negative (-1)"),
        ("negative offset", a(tensor(float(), -1, &[2], &[1])), "is negative (-1)"),
        ("sizes and strides differ", a(tensor(float(), 0, &[2], &[1, 1])), "1 sizes and 2 strides"),
        ("a thousand dimensions", a(tensor(float(), 0, &[1; 1000], &[1; 1000])), "1000 dimensions"),
        (
            "size of a text",
            a(call("torch._utils", "_rebuild_tensor", &[float(), int(0), tuple(&[text("2")]), ints(&[1])])),
            "holds a text",
        ),
        (
            "no such storage",
            a(tensor(storage("FloatStorage", "9", 2), 0, &[2], &[1])),
            "storage `9`, which is not in the file",
        ),
        (
            "storage outside",
            a(tensor(storage("FloatStorage", "../../../etc/passwd", 2), 0, &[2], &[1])),
            "which is not in the file",
        ),
        (
            "storage shorter than said",
            a(tensor(storage("FloatStorage", "0", 3), 0, &[2], &[1])),
            "that has only 8 bytes",
        ),
        (
            "storage longer than all memory",
            a(tensor(storage("DoubleStorage", "0", i64::MAX), 0, &[2], &[1])),
            "that has only 8 bytes",
        ),
        ("type wider than said", a(tensor(storage("DoubleStorage", "0", 2), 0, &[2], &[1])), "that has only 8 bytes"),
        ("past the end", a(tensor(float(), 1, &[2], &[1])), "past the end of storage `0`, which has 2"),
        ("stride past the end", a(tensor(float(), 0, &[2], &[2])), "past the end"),
        ("offset past all memory", a(tensor(float(), i64::MAX, &[2], &[1])), "past the end"),
        ("stride past all memory", a(tensor(float(), 0, &[3, 2], &[i64::MAX, 1])), "past the end"),
        ("shape past all memory", a(tensor(float(), 0, &[1 << 40, 1 << 40], &[0, 0])), "impossibly large"),
        (
            "shape past all memory before a zero",
            a(tensor(float(), 0, &[1 << 40, 1 << 40, 0], &[0, 0, 0])),
            "impossibly large",
        ),
        ("one number a trillion times", a(tensor(float(), 0, &[1 << 20, 1 << 20], &[0, 0])), "repeats 8 stored bytes"),
        (
            "old view past its storage",
            a(tensor(old_storage("FloatStorage", "0", 2, tuple(&[text("v"), int(1), int(2)])), 0, &[1], &[1])),
            "past the end of storage `0`",
        ),
        (
            "old view that is none",
            a(tensor(old_storage("FloatStorage", "0", 2, int(1)), 0, &[1], &[1])),
            "not that of a storage",
        ),
    ] {
        cases.push(Case::new(name, zip_of(&body), wanted));
    }
    cases.extend(bare());
    cases
}

/// Files of the old form, and pickles that are no checkpoint.
fn bare() -> Vec<Case> {
    let data = old_data(2, &[0; 8]);
    let one = || dict(&[("a", tensor(storage("FloatStorage", "0", 2), 0, &[2], &[1]))]);
    let whole = [old(&one(), &["0"]), data.clone()].concat();
    let big = old_head();
    let big = [&big[..big.len() - 3], b"\x89u."].concat();
    let mut cases = vec![
        Case::new("pickle of a dictionary", program(b"}"), "not one that `torch.save` wrote"),
        Case::new(
            "pickle of the magic as a text",
            program(&text("0x1950a86a20f9469cfc6c")),
            "not one that `torch.save` wrote",
        ),
        Case::new("protocol 0", b"(dp0\nS'a'\np1\ncos\nsystem\n".to_vec(), "looks like a text file"),
        Case::new("protocol 1", b"\x80\x01}.".to_vec(), "only 4 bytes"),
        Case::new(
            "version 1002",
            [program(b"\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19"), program(&int(1002))].concat(),
            "unknown version",
        ),
        Case::new("big-endian", big, "big-endian"),
        Case::new("names that are no list", [old_head(), program(&one()), program(b"N")].concat(), "not a list"),
        Case::new("a name that is no text", [old_head(), program(&one()), program(b"]Na")].concat(), "not a text"),
        Case::new(
            "a storage of no tensor",
            [old(&one(), &["0", "1"]), data.clone(), data.clone()].concat(),
            "belongs to no tensor",
        ),
        Case::new("a storage not listed", old(&one(), &[]), "which is not in the file"),
        Case::new(
            "a storage named twice",
            [old(&one(), &["0", "0"]), data.clone(), data.clone()].concat(),
            "named twice",
        ),
        Case::new(
            "another length",
            [old(&one(), &["0"]), old_data(3, &[0; 12])].concat(),
            "has 3 elements where its tensors say 2",
        ),
        Case::new("a negative length", [old(&one(), &["0"]), old_data(-2, &[0; 8])].concat(), "has -2 elements"),
        Case::new("data cut", whole[..whole.len() - 1].to_vec(), "goes past the end"),
        Case::new("data missing", old(&one(), &["0"]), "goes past the end"),
        Case::new("bytes left over", [&whole[..], b"x"].concat(), "1 bytes after the last storage"),
        Case::new(
            "a storage of all memory",
            [
                old(&dict(&[("a", tensor(storage("ByteStorage", "0", i64::MAX), 0, &[2], &[1]))]), &["0"]),
                old_data(i64::MAX, &[0; 8]),
            ]
            .concat(),
            "goes past the end",
        ),
        Case::large("33 MB of nothing", || b"\x80\x02".repeat(33 << 19), "longer than 33554432 bytes"),
        Case::large(
            "33 MB of one value",
            || [&b"\x80\x02N"[..], &b"q\0".repeat(33 << 19)].concat(),
            "longer than 33554432 bytes",
        ),
        Case::large("most of everything", most, "ends in the middle"),
    ];
    // Cut at every place.
    cases.extend(
        (2..whole.len() - 1)
            .step_by(7)
            .map(|at| Case::new(format!("cut at {at}"), whole[..at].to_vec(), "an unfinished download?")),
    );
    cases
}

/// Eleven tuples of 100 000 times the same.
fn values() -> Vec<u8> {
    let tuple = [b"(", &b"N".repeat(100_000)[..], b"t"].concat();
    tuple.repeat(11)
}

/// Ten references to ten references to …, twenty levels deep: 10²⁰ values if anyone followed them.
fn laughs() -> Vec<u8> {
    let mut body = b"}".to_vec();
    body.extend([text("lol"), b"]q\0".to_vec()].concat());
    for level in 0..20u8 {
        body.extend(b"](");
        body.extend([b'h', level].repeat(10));
        body.extend([b'e', b'q', level + 1]);
    }
    // Twenty-one lists are on the stack; the last becomes the value.
    body.extend([b"\x86".repeat(20), b"s".to_vec()].concat());
    body
}

/// As many values, containers, numbers and entries as are allowed, each container with one entry.
fn most() -> Vec<u8> {
    let mut body = b"\x80\x02".to_vec();
    for number in 0..262_000u32 {
        body.extend(b"}NNsr");
        body.extend(number.to_le_bytes());
    }
    body.extend(b"r\xff\xff\x07\0");
    body.extend(b"N".repeat(262_000));
    body
}
