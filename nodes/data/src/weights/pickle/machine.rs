//! The stack machine: those operations of protocols 2 to 5 that checkpoints consist of.

use super::globals;
use super::value::{Fault, Heap, Node, Value, broken};
use super::{MAX_MEMO, MAX_OPEN, MAX_PICKLE, MAX_STACK, MAX_TEXT, Problem};

/// What a pickle makes.
#[derive(Debug)]
pub(super) struct Loaded<'a> {
    pub value: Value<'a>,
    pub heap: Heap<'a>,
    /// Bytes up to and with its last operation.
    pub end: usize,
}

/// Runs the pickle that begins at byte `start`.
pub(super) fn load(file: &[u8], start: usize) -> Result<Loaded<'_>, Problem> {
    let data = file.get(start..).unwrap_or_default();
    let data = &data[..data.len().min(MAX_PICKLE)];
    let (stack, memo) = (Vec::new(), Vec::new());
    let mut machine = Machine { data, at: 0, op_at: 0, stack, marks: Vec::new(), memo, heap: Heap::default() };
    loop {
        match machine.step() {
            Ok(None) => {}
            Ok(Some(value)) => return Ok(Loaded { value, heap: machine.heap, end: start + machine.at }),
            Err(Fault::Forbidden(name)) => return Err(Problem::Forbidden(name)),
            Err(Fault::Broken(problem)) => return Err(Problem::Pickle { at: start + machine.op_at, problem }),
        }
    }
}

struct Machine<'a> {
    data: &'a [u8],
    at: usize,
    /// Where the operation began.
    op_at: usize,
    stack: Vec<Value<'a>>,
    /// Stack heights at open containers.
    marks: Vec<usize>,
    memo: Vec<Option<Value<'a>>>,
    heap: Heap<'a>,
}

impl<'a> Machine<'a> {
    /// Does one operation; gives the result after the last.
    fn step(&mut self) -> Result<Option<Value<'a>>, Fault> {
        self.op_at = self.at;
        match self.number::<1>()?[0] {
            // PROTO, FRAME
            0x80 => match self.number::<1>()?[0] {
                2..=5 => {}
                other => return broken(format!("protocol {other} is not one that torch writes")),
            },
            0x95 => {
                let len = u64::from_le_bytes(self.number()?);
                if len > (self.data.len() - self.at) as u64 {
                    return broken(format!("it states a frame of {len} bytes, but fewer follow"));
                }
            }
            b'.' => return self.pop().map(Some),
            b'(' => {
                if self.marks.len() >= MAX_OPEN {
                    return broken(format!("more than {MAX_OPEN} containers are open at a time"));
                }
                self.marks.push(self.stack.len());
            }
            b'N' => self.push(Value::None)?,
            0x88 => self.push(Value::Bool(true))?,
            0x89 => self.push(Value::Bool(false))?,
            // BININT, BININT1, BININT2, LONG1, BINFLOAT
            b'J' => {
                let number = i32::from_le_bytes(self.number()?);
                self.push(Value::Int(number.into()))?;
            }
            b'K' => {
                let [number] = self.number()?;
                self.push(Value::Int(number.into()))?;
            }
            b'M' => {
                let number = u16::from_le_bytes(self.number()?);
                self.push(Value::Int(number.into()))?;
            }
            0x8a => {
                let [len] = self.number()?;
                let bytes = self.take(len.into())?;
                self.push(integer(bytes))?;
            }
            b'G' => {
                self.take(8)?;
                self.push(Value::Float)?;
            }
            // BINUNICODE, SHORT_BINUNICODE
            b'X' => {
                let len = u32::from_le_bytes(self.number()?);
                self.text(len)?;
            }
            0x8c => {
                let [len] = self.number()?;
                self.text(len.into())?;
            }
            // SHORT_BINSTRING: a text of Python 2, or bytes
            b'U' => {
                let [len] = self.number()?;
                let bytes = self.take(len.into())?;
                self.push(std::str::from_utf8(bytes).map_or(Value::Bytes(bytes), Value::Text))?;
            }
            // BINBYTES, SHORT_BINBYTES
            b'B' => {
                let len = u32::from_le_bytes(self.number()?);
                let bytes = self.bounded(len)?;
                self.push(Value::Bytes(bytes))?;
            }
            b'C' => {
                let [len] = self.number()?;
                let bytes = self.take(len.into())?;
                self.push(Value::Bytes(bytes))?;
            }
            // EMPTY_DICT, EMPTY_LIST, EMPTY_TUPLE
            b'}' => self.add(Node::Dict(Vec::new()))?,
            b']' => self.add(Node::List(Vec::new()))?,
            b')' => self.add(Node::Tuple(Vec::new()))?,
            // TUPLE, TUPLE1, TUPLE2, TUPLE3
            b't' => {
                let from = self.mark()?;
                self.tuple(from)?;
            }
            op @ 0x85..=0x87 => {
                let from = self.below(usize::from(op - 0x84))?;
                self.tuple(from)?;
            }
            // APPEND, APPENDS
            b'a' => {
                let from = self.below(1)?;
                self.append(from)?;
            }
            b'e' => {
                let from = self.mark()?;
                self.append(from)?;
            }
            // SETITEM, SETITEMS
            b's' => {
                let from = self.below(2)?;
                self.set(from)?;
            }
            b'u' => {
                let from = self.mark()?;
                self.set(from)?;
            }
            // BINPUT, LONG_BINPUT, MEMOIZE
            b'q' => {
                let [number] = self.number()?;
                self.put(number.into())?;
            }
            b'r' => {
                let number = u32::from_le_bytes(self.number()?);
                self.put(number as usize)?;
            }
            0x94 => self.put(self.memo.len())?,
            // BINGET, LONG_BINGET
            b'h' => {
                let [number] = self.number()?;
                self.get(number.into())?;
            }
            b'j' => {
                let number = u32::from_le_bytes(self.number()?);
                self.get(number as usize)?;
            }
            // GLOBAL, STACK_GLOBAL
            b'c' => {
                let (module, name) = (self.line()?, self.line()?);
                self.push(Value::Global(globals::find(module, name)?))?;
            }
            0x93 => {
                let (name, module) = (self.pop()?, self.pop()?);
                let (Value::Text(module), Value::Text(name)) = (module, name) else {
                    return broken("the name of a class or function is not a text");
                };
                self.push(Value::Global(globals::find(module, name)?))?;
            }
            // REDUCE, NEWOBJ, BUILD, BINPERSID
            b'R' => {
                let (args, callee) = (self.pop()?, self.pop()?);
                let made = globals::call(&mut self.heap, callee, args)?;
                self.push(made)?;
            }
            0x81 => {
                let (args, class) = (self.pop()?, self.pop()?);
                let made = globals::make(&mut self.heap, class, args)?;
                self.push(made)?;
            }
            b'b' => {
                // Attributes of an object carry no weights; only what may have some is accepted.
                let (_, object) = (self.pop()?, self.pop()?);
                match (object, self.heap.node(object)) {
                    (Value::Inert, _) | (_, Some(Node::Dict(_) | Node::Tensor(_) | Node::NumpyType(_))) => {}
                    _ => return broken(format!("it gives attributes to {}", self.heap.kind(object))),
                }
                self.push(object)?;
            }
            b'Q' => {
                let id = self.pop()?;
                let storage = globals::storage(&mut self.heap, id)?;
                self.push(storage)?;
            }
            other => return broken(format!("operation {other:#04x} is not one that weight files use")),
        }
        Ok(None)
    }

    fn take(&mut self, len: usize) -> Result<&'a [u8], Fault> {
        let Some(bytes) = self.data[self.at..].get(..len) else {
            return broken(if self.data.len() == MAX_PICKLE {
                format!("it is longer than {MAX_PICKLE} bytes")
            } else {
                "it ends in the middle (an unfinished download?)".into()
            });
        };
        self.at += len;
        Ok(bytes)
    }

    fn number<const N: usize>(&mut self) -> Result<[u8; N], Fault> {
        let mut number = [0; N];
        number.copy_from_slice(self.take(N)?);
        Ok(number)
    }

    /// Bytes of a stated length.
    fn bounded(&mut self, len: u32) -> Result<&'a [u8], Fault> {
        if len as usize > MAX_TEXT {
            return broken(format!("it states a text of {len} bytes, more than the limit of {MAX_TEXT}"));
        }
        self.take(len as usize)
    }

    fn text(&mut self, len: u32) -> Result<(), Fault> {
        match std::str::from_utf8(self.bounded(len)?) {
            Ok(text) => self.push(Value::Text(text)),
            Err(_) => broken("a text is not UTF-8"),
        }
    }

    /// A name up to the end of its line.
    fn line(&mut self) -> Result<&'a str, Fault> {
        const LONGEST: usize = 512;
        let rest = &self.data[self.at..];
        let Some(len) = rest.iter().take(LONGEST).position(|&b| b == b'\n') else {
            if rest.len() < LONGEST {
                self.take(rest.len() + 1)?;
            }
            return broken("the name of a class or function has no end");
        };
        let line = self.take(len + 1)?;
        std::str::from_utf8(&line[..len]).or_else(|_| broken("the name of a class or function is not UTF-8"))
    }

    fn push(&mut self, value: Value<'a>) -> Result<(), Fault> {
        if self.stack.len() >= MAX_STACK {
            return broken(format!("more than {MAX_STACK} values are on its stack"));
        }
        self.stack.push(value);
        Ok(())
    }

    fn pop(&mut self) -> Result<Value<'a>, Fault> {
        let from = self.below(1)?;
        let value = self.stack[from];
        self.stack.truncate(from);
        Ok(value)
    }

    /// Height of the stack below its last `count` values, none of them under an open container.
    fn below(&self, count: usize) -> Result<usize, Fault> {
        let floor = self.marks.last().copied().unwrap_or(0);
        match self.stack.len().checked_sub(count) {
            Some(height) if height >= floor => Ok(height),
            _ => broken("it takes a value where there is none"),
        }
    }

    /// Closes the innermost container; gives the height of its first value.
    fn mark(&mut self) -> Result<usize, Fault> {
        self.marks.pop().ok_or_else(|| Fault::Broken("it closes a container that is not open".into()))
    }

    fn add(&mut self, node: Node<'a>) -> Result<(), Fault> {
        let value = self.heap.add(node)?;
        self.push(value)
    }

    fn tuple(&mut self, from: usize) -> Result<(), Fault> {
        self.heap.spend(self.stack.len() - from)?;
        let parts = self.stack.drain(from..).collect();
        self.add(Node::Tuple(parts))
    }

    /// Moves the values above `from` into the list below them.
    fn append(&mut self, from: usize) -> Result<(), Fault> {
        self.heap.spend(self.stack.len() - from)?;
        let list = self.owner(from)?;
        let kind = self.heap.kind(list);
        let Some(Node::List(parts)) = self.heap.node_mut(list) else {
            return broken(format!("it appends to {kind}"));
        };
        parts.extend(self.stack.drain(from..));
        Ok(())
    }

    /// Moves the names and values above `from` into the dictionary below them.
    fn set(&mut self, from: usize) -> Result<(), Fault> {
        let count = self.stack.len() - from;
        self.heap.spend(count)?;
        let dict = self.owner(from)?;
        let kind = self.heap.kind(dict);
        let Some(Node::Dict(entries)) = self.heap.node_mut(dict) else {
            return broken(format!("it sets items of {kind}"));
        };
        if !count.is_multiple_of(2) {
            return broken("a dictionary has a name without a value");
        }
        entries.extend(self.stack[from..].as_chunks::<2>().0.iter().map(|[key, value]| (*key, *value)));
        self.stack.truncate(from);
        Ok(())
    }

    /// The container below height `from`.
    fn owner(&self, from: usize) -> Result<Value<'a>, Fault> {
        let floor = self.marks.last().copied().unwrap_or(0);
        match from.checked_sub(1) {
            Some(at) if at >= floor => Ok(self.stack[at]),
            _ => broken("it fills a container where there is none"),
        }
    }

    fn put(&mut self, number: usize) -> Result<(), Fault> {
        let from = self.below(1)?;
        if number >= MAX_MEMO {
            return broken(format!("it numbers a value {number}, beyond the limit of {MAX_MEMO}"));
        }
        if number >= self.memo.len() {
            self.memo.resize(number + 1, None);
        }
        self.memo[number] = Some(self.stack[from]);
        Ok(())
    }

    fn get(&mut self, number: usize) -> Result<(), Fault> {
        match self.memo.get(number) {
            Some(Some(value)) => self.push(*value),
            _ => broken(format!("it asks for value {number}, which was never numbered")),
        }
    }
}

/// A little-endian number in two's complement.
fn integer(bytes: &[u8]) -> Value<'_> {
    if bytes.len() > 8 {
        return Value::Long(bytes);
    }
    let fill = if bytes.last().is_some_and(|b| b & 0x80 != 0) { 0xff } else { 0 };
    let mut number = [fill; 8];
    number[..bytes.len()].copy_from_slice(bytes);
    Value::Int(i64::from_le_bytes(number))
}
