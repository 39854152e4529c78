//! `P00xx` and `P01xx`: reading a document, and its fields.

use super::{Code, code};

pub(super) const CODES: &[Code] = &[
    code(
        "P0001",
        "the file cannot be read",
        "The document named on the command line does not exist, is a folder, or may not be read by this user.",
    ),
    code(
        "P0002",
        "the file is not UTF-8 text",
        "Documents are UTF-8 text, not UTF-16 and not an encoding of one country. Save the file as UTF-8 in your editor; a binary file such as a checkpoint is looked at with `pipe inspect`.",
    ),
    code(
        "P0003",
        "YAML syntax",
        "The text is not well-formed YAML 1.2. The place is where reading had to stop; the cause is often on the line before: a missing quote, a wrong indentation, a `:` without a blank after it.",
    ),
    code(
        "P0004",
        "TOML syntax",
        "The text is not well-formed TOML 1.1. Text values need quotes, and each `key = value` stands on a line of its own.",
    ),
    code(
        "P0005",
        "a tab in the indentation",
        "YAML does not allow tabs as indentation, because their width differs between editors. Replace each by blanks.",
    ),
    code(
        "P0006",
        "merge-conflict markers",
        "The file still holds the markers of an unfinished merge (`<<<<<<<`, `=======`, `>>>>>>>`). Choose one side, delete the markers, and finish the merge.",
    ),
    code(
        "P0007",
        "a key is given twice",
        "A table has the same key twice. Many readers silently keep the last one; here both places are shown, since one of the two would be ignored.",
    ),
    code(
        "P0008",
        "several documents in one file",
        "A `---` in the middle of a file begins a second YAML document. One file describes one run; split the file.",
    ),
    code(
        "P0009",
        "a tag that is not known",
        "Tags such as `!env` or `!include` have no meaning here. Only the tags of YAML's own core schema (`!!str`, `!!int`, …) are allowed.",
    ),
    code(
        "P0010",
        "an anchor or alias that cannot be used",
        "An alias (`*name`) needs an anchor (`&name`) before it, must not contain itself, and all aliases together may not blow the document up to more than a million values.",
    ),
    code(
        "P0011",
        "the document is too large",
        "A document may have 8 MiB. Prompts and captions belong into files of their own.",
    ),
    code("P0012", "the document is nested too deeply", "Tables and lists may be nested 64 levels deep."),
    code(
        "P0013",
        "a key is not plain text",
        "Keys of tables are text. Lists and tables as keys (`? [a, b]`) are not allowed, nor is a key that is null.",
    ),
    code(
        "P0014",
        "dates and times are not used",
        "TOML reads an unquoted date or time as a value of its own. No field takes one; put it in quotes if text is meant.",
    ),
    code(
        "P0015",
        "the document is empty",
        "The file has no content, or only comments. `pipe init` writes a pipeline to begin with.",
    ),
    code(
        "P0016",
        "an override that cannot be applied",
        "`--set` takes `path.to.field=value`. The path goes through tables by their keys and through lists by numbers from 0; the value is read as YAML: `--set nodes.adamw.learning_rate=2e-4`, `--set 'nodes.cached.text=[clip, t5]'`, `--set 'nodes.preview.prompts[0].width=256'`. `null` takes a field, an item or a node out: `--set nodes.preview=null`. Where fields exclude each other, the one that is set takes the place of the document's.",
    ),
    code(
        "P0017",
        "a merge key that is not a table",
        "`<<` merges the entries of another table, or of a list of tables, into this one: `<<: *defaults`.",
    ),
    code(
        "P0018",
        "a file for another program",
        "The file is a set-up of sd-scripts, not a document of `pipe`: the two describe a training in different words. `pipe migrate sd-scripts` translates it.",
    ),
    code(
        "P0101",
        "a value of the wrong type",
        "Each field has one type: text, whole number, number, `true` or `false`, a list or a table. A number in quotes is text and not a number; `no` and `yes` are text in YAML 1.2.",
    ),
    code(
        "P0102",
        "a required field is missing",
        "The node cannot work without this field, and there is no default that would suit everybody.",
    ),
    code("P0103", "not one of the choices", "The field takes one of a fixed list of values."),
    code(
        "P0104",
        "unknown field",
        "The field is not known at this place. Nothing in a document is ignored: a misspelt field would otherwise silently leave the default in force. `pipe nodes TYPE` lists the fields of a node type.",
    ),
    code("P0105", "a value out of range", "The number is smaller or larger than the field allows."),
    code("P0106", "text of the wrong form", "The text does not have the form that the field needs."),
    code("P0107", "a list of the wrong length", "The list has too few or too many items."),
    code(
        "P0108",
        "fields that exclude each other",
        "Two fields say the same thing in different units, such as `steps` and `epochs`. Give one.",
    ),
    code("P0109", "one of several fields is needed", "Exactly one of these fields must be given."),
    code(
        "P0110",
        "a field without a value",
        "The field is there but has no value (`key:` or `null`). Leave the key out to get its default.",
    ),
    code("P0111", "an empty table", "The table needs at least one field to say anything."),
    code(
        "P0112",
        "not a finite number",
        "Infinity and not-a-number are no sensible values here. To switch a limit off, leave the key out or give `false` where the field allows it.",
    ),
    code("P0113", "a repeated item", "The list names the same thing twice."),
    code(
        "P0199",
        "the fields could not be read",
        "The fields passed the check but could not be turned into the node's configuration. This is a fault of `pipe`; please report it with the document.",
    ),
];
