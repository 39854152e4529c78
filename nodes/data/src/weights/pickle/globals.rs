//! The names a checkpoint may use, and what each makes. Nothing is looked up anywhere else.

use super::shown;
use super::value::{Fault, Global, Heap, Node, Storage, Tensor, Value, broken};
use crate::weights::dtype::DType;

/// Looks a name up in the list.
pub(super) fn find(module: &str, name: &str) -> Result<Global, Fault> {
    Ok(match (module, name) {
        ("torch._utils", "_rebuild_tensor_v2") => Global::RebuildTensorV2,
        ("torch._utils", "_rebuild_tensor") => Global::RebuildTensor,
        ("torch._utils", "_rebuild_parameter") => Global::RebuildParameter,
        ("torch", "Size") => Global::Size,
        ("torch", "device") => Global::Device,
        ("torch", "DoubleStorage") => Global::Storage(DType::F64),
        ("torch", "FloatStorage") => Global::Storage(DType::F32),
        ("torch", "HalfStorage") => Global::Storage(DType::F16),
        ("torch", "BFloat16Storage") => Global::Storage(DType::BF16),
        ("torch", "LongStorage") => Global::Storage(DType::I64),
        ("torch", "IntStorage") => Global::Storage(DType::I32),
        ("torch", "ShortStorage") => Global::Storage(DType::I16),
        ("torch", "CharStorage") => Global::Storage(DType::I8),
        ("torch", "ByteStorage") => Global::Storage(DType::U8),
        ("torch", "BoolStorage") => Global::Storage(DType::Bool),
        ("collections", "OrderedDict") => Global::OrderedDict,
        ("numpy.core.multiarray", "scalar") => Global::NumpyScalar,
        ("numpy", "dtype") => Global::NumpyType,
        ("_codecs", "encode") => Global::Encode,
        _ if module == "pytorch_lightning.callbacks" || module.starts_with("pytorch_lightning.callbacks.") => {
            Global::Callback
        }
        _ => return Err(Fault::Forbidden(shown(&format!("{module}.{name}")))),
    })
}

/// What calling a name on the list gives.
pub(super) fn call<'a>(heap: &mut Heap<'a>, callee: Value<'a>, args: Value<'a>) -> Result<Value<'a>, Fault> {
    let Value::Global(global) = callee else {
        return broken(format!("it calls {}", heap.kind(callee)));
    };
    let Some(args) = heap.tuple(args).map(<[_]>::to_vec) else {
        return broken("the arguments of a call are not a tuple");
    };
    match (global, args.as_slice()) {
        (Global::RebuildTensorV2, &[storage, offset, shape, strides, _, _])
        | (Global::RebuildTensorV2, &[storage, offset, shape, strides, _, _, _])
        | (Global::RebuildTensor, &[storage, offset, shape, strides]) => tensor(heap, storage, offset, shape, strides),
        (Global::RebuildParameter, &[data, _, _]) => match heap.tensor(data) {
            Some(_) => Ok(data),
            None => broken(format!("a parameter is made of {}", heap.kind(data))),
        },
        (Global::OrderedDict, []) => heap.add(Node::Dict(Vec::new())),
        (Global::OrderedDict, &[pairs]) => ordered_dict(heap, pairs),
        (Global::Size, &[sizes]) if heap.tuple(sizes).is_some() => Ok(sizes),
        (Global::NumpyType, &[Value::Text(name), ..]) => heap.add(Node::NumpyType(name)),
        (Global::NumpyScalar, &[dtype, bytes]) => Ok(scalar(heap, dtype, bytes)),
        (Global::Encode, &[Value::Text(text), Value::Text("latin1" | "latin-1")]) => Ok(Value::Latin(text)),
        (Global::Device | Global::Callback, _) => Ok(Value::Inert),
        (Global::Storage(_), _) => broken("it makes a storage by a call"),
        _ => broken(format!("`{global:?}` is called with {} arguments that do not fit", args.len())),
    }
}

/// What `cls.__new__(cls, *args)` gives.
pub(super) fn make<'a>(heap: &mut Heap<'a>, class: Value<'a>, args: Value<'a>) -> Result<Value<'a>, Fault> {
    match class {
        Value::Global(Global::OrderedDict | Global::Callback | Global::Size | Global::NumpyType) => {
            call(heap, class, args)
        }
        _ => broken(format!("it makes an instance of {}", heap.kind(class))),
    }
}

/// The storage a persistent id `('storage', type, key, device, length)` names; the old form ends with a view.
pub(super) fn storage<'a>(heap: &mut Heap<'a>, id: Value<'a>) -> Result<Value<'a>, Fault> {
    let wrong = || broken("a persistent id is not that of a storage");
    let Some(id) = heap.tuple(id) else { return wrong() };
    let (view, id) = match id {
        [id @ .., last] if id.len() == 5 => (*last, id),
        _ => (Value::None, id),
    };
    let &[Value::Text("storage"), Value::Global(Global::Storage(dtype)), Value::Text(key), _, Value::Int(len)] = id
    else {
        return wrong();
    };
    let view = match (view, heap.tuple(view)) {
        (Value::None, _) => None,
        (_, Some(&[Value::Text(_), Value::Int(first), Value::Int(len)])) => {
            Some((natural(first, "the start of a storage")?, natural(len, "the length of a storage")?))
        }
        _ => return wrong(),
    };
    let len = natural(len, "the length of a storage")?;
    heap.add(Node::Storage(Storage { dtype, key, len, view }))
}

fn tensor<'a>(
    heap: &mut Heap<'a>,
    storage: Value<'a>,
    offset: Value<'a>,
    shape: Value<'a>,
    strides: Value<'a>,
) -> Result<Value<'a>, Fault> {
    let Some(Node::Storage(storage)) = heap.node(storage) else {
        return broken(format!("a tensor is made of {}", heap.kind(storage)));
    };
    let numbers = |value: Value<'a>, what| {
        let Some(parts) = heap.sequence(value) else { return broken(format!("{what} is not a tuple")) };
        if parts.len() > super::MAX_DIMENSIONS {
            return broken(format!("{what} has {} dimensions", parts.len()));
        }
        let number = |value: &Value<'a>| match *value {
            Value::Int(n) => natural(n, what),
            other => broken(format!("{what} holds {}", heap.kind(other))),
        };
        parts.iter().map(number).collect::<Result<Vec<u64>, Fault>>()
    };
    let (shape, strides) = (numbers(shape, "the shape of a tensor")?, numbers(strides, "the stride of a tensor")?);
    let offset = match offset {
        Value::Int(n) => natural(n, "the offset of a tensor")?,
        other => return broken(format!("the offset of a tensor is {}", heap.kind(other))),
    };
    if shape.len() != strides.len() {
        return broken(format!("a tensor has {} sizes and {} strides", shape.len(), strides.len()));
    }
    let tensor = Tensor { storage: *storage, offset, shape, strides };
    heap.add(Node::Tensor(Box::new(tensor)))
}

fn natural(number: i64, what: &str) -> Result<u64, Fault> {
    u64::try_from(number).or_else(|_| broken(format!("{what} is negative ({number})")))
}

fn ordered_dict<'a>(heap: &mut Heap<'a>, pairs: Value<'a>) -> Result<Value<'a>, Fault> {
    let wrong = || Fault::Broken("an `OrderedDict` is made of something other than pairs".into());
    let pairs = heap.sequence(pairs).ok_or_else(wrong)?;
    let pair = |value: &Value<'a>| match heap.sequence(*value) {
        Some(&[key, value]) => Ok((key, value)),
        _ => Err(wrong()),
    };
    let entries: Vec<_> = pairs.iter().map(pair).collect::<Result<_, _>>()?;
    heap.spend(2 * entries.len())?;
    heap.add(Node::Dict(entries))
}

/// A number as numpy stores it; other kinds of scalar carry nothing that is needed.
fn scalar<'a>(heap: &Heap<'a>, dtype: Value<'a>, value: Value<'a>) -> Value<'a> {
    let Some(Node::NumpyType(dtype)) = heap.node(dtype) else { return Value::Inert };
    let bytes: Option<Vec<u8>> = match value {
        Value::Bytes(bytes) => Some(bytes.iter().take(9).copied().collect()),
        Value::Text(text) => Some(text.bytes().take(9).collect()),
        Value::Latin(text) => text.chars().take(9).map(|c| u8::try_from(c).ok()).collect(),
        _ => None,
    };
    match (*dtype, bytes.as_deref()) {
        ("i8", Some(&[a, b, c, d, e, f, g, h])) => Value::Int(i64::from_le_bytes([a, b, c, d, e, f, g, h])),
        ("i4", Some(&[a, b, c, d])) => Value::Int(i32::from_le_bytes([a, b, c, d]).into()),
        ("f4" | "f8", _) => Value::Float,
        _ => Value::Inert,
    }
}
