//! `P03xx` to `P05xx`: files and weights, nodes that do not go together, and the plan.

use super::{Code, code};

pub(super) const CODES: &[Code] = &[
    code(
        "P0301",
        "a file or folder is missing",
        "The path does not exist. Relative paths start from the folder of the document, not from the folder the command runs in; `~/` is the home folder.",
    ),
    code(
        "P0302",
        "a file of the wrong kind",
        "The file exists but is not what the field needs: no weights at all, a folder instead of a file, weights of another kind of model. `pipe inspect FILE` shows what it is. Torch checkpoints (`.ckpt`, `.pt`, `.pth`, `.bin`) are read without running anything of them; one that asks for more than tensors, as an attack or a pickled model object does, is refused and the name it asks for is shown.",
    ),
    code(
        "P0303",
        "a damaged file",
        "The file's header does not agree with its content: it was cut short by an interrupted download or a full disk, or its offsets point outside the file. Get it again and compare its size. An entry of a cache whose bytes changed is removed, and made anew when the run goes on. Or it holds values that are no numbers where they are to be kept in 8 bits.",
    ),
    code(
        "P0304",
        "weights are missing",
        "The file lacks tensors that this architecture needs. The first missing names are listed. Either the file holds another architecture, or only a part of the model (an adapter, a text encoder), or it was written by a tool that drops tensors.",
    ),
    code(
        "P0305",
        "a tensor of the wrong shape",
        "A tensor has another shape than the architecture gives it. The file usually holds another size or version of the model; `config:` describes reduced models whose sizes the shapes alone cannot tell.",
    ),
    code(
        "P0306",
        "no images",
        "The folder holds no image of a known format (`.png`, `.jpg`, `.jpeg`, `.webp`, `.bmp`). Images in sub-folders count only where the node says so.",
    ),
    code(
        "P0307",
        "an image that cannot be decoded",
        "The file has the name of an image but is none that can be decoded, or it is cut short. `pipe check` reads the header and the end of each image: what it finds is an error. An image that turns out damaged in its middle during a run is set aside and reported, and the others are used.",
    ),
    code(
        "P0308",
        "a caption that is not UTF-8",
        "Caption files are UTF-8 text. Save the file as UTF-8; guessing another encoding would train on wrong letters.",
    ),
    code(
        "P0309",
        "empty captions",
        "An image has an empty caption file or none. Training on an empty caption is allowed, but it is rarely meant for many images.",
    ),
    code(
        "P0310",
        "a folder that cannot be read",
        "The folder exists but may not be listed by this user, or the disk reported an error.",
    ),
    code(
        "P0311",
        "a caption whose emphasis cannot be read",
        "With `weighted_captions` the number in `(words:1.2)` has to be above zero. Brackets that are part of the text are written `\\(` and `\\)`.",
    ),
    code(
        "P0312",
        "a prompts file that cannot be used",
        "A line of the prompts file of a preview has an option that is unknown, lacks its value or is out of range, or the file is not of its form. The message names the line. A `.txt` file has a prompt a line with options behind ` --`: `--n` what it should not show, `--w` and `--h` its size, `--d` the seed, `--s` steps, `--l` guidance scale, `--g` embedded guidance, `--ss` sampler. Lines that begin with `#` are comments.",
    ),
    code(
        "P0313",
        "a metadata file that cannot be used",
        "A metadata file lists images with captions and tags, as kohya's tools write it: a `.json` file with one object, whose keys name images and whose values have `caption` and `tags`, or a `.jsonl` file with an object a line that names its image as `image_path`. A key is a path from the folder of the images, an absolute path, or the name of an image in that folder without its extension. Each image is listed once, and each must be there.",
    ),
    code(
        "P0315",
        "something outside the document is missing",
        "A node needs a program, a package or a variable of the environment that is not there. The help says how to get it, or how to do without.",
    ),
    code(
        "P0320",
        "names that match nothing",
        "A weight file has layers or tensors that the model does not have, or that nothing is known about; the first are listed. Leaving them out in silence would give a result that looks complete and is not. Usual causes: an adapter of another model family, of a text encoder that the base file does not hold, or a pruned or extended model. Where the rest is wanted, `--skip-unknown` leaves them out.",
    ),
    code(
        "P0321",
        "the result would replace a file",
        "The name given for the result exists already, or is that of a file that is read. Use another name; `--force` replaces an existing result, but never an input, and never a folder that holds no model.",
    ),
    code(
        "P0330",
        "images that are not read",
        "A folder of images holds some that are passed over: files of other formats (`.tiff`, `.gif`, …), or sub-folders with images. Only png, jpg, webp and bmp files directly in the folder are read.",
    ),
    code(
        "P0331",
        "images much smaller than they are trained at",
        "Images are enlarged to at least twice their size to reach the resolution asked for. What is added is no detail, and a model learns the blur. Lower the resolution, use `buckets.no_upscale`, or take larger images.",
    ),
    code(
        "P0332",
        "what is measured is what is trained on",
        "Held-out images are there to see how a model does on what it has not learned. Here they are read from a folder that is trained on, so the loss measured on them goes down in any case.",
    ),
    code(
        "P0333",
        "a cadence that the run ends before",
        "Something is to happen every so many steps or epochs, and the run is over before the first time. What is saved, shown or measured at the end is so in any case.",
    ),
    code(
        "P0335",
        "captions that are cut off",
        "A text encoder reads so many tokens (pieces of words) of a caption, and what is behind them is as if it were not there. `max_tokens` of the CLIP encoders may be 150 or 225 for SD 1.x, SD 2.x and SDXL, at the price of a slower step; that of T5 and Gemma is any number their model was made for. Or put what matters to the front.",
    ),
    code(
        "P0401",
        "architectures that do not match",
        "Two nodes belong to different architectures, for example a VAE with 16 latent channels and a U-Net that takes 4, or a text encoder whose width the network does not take.",
    ),
    code(
        "P0402",
        "an option without effect",
        "The field is known but has no effect with this architecture or these other options. It is an error since a value that does nothing looks as if it did something. Remove it.",
    ),
    code(
        "P0403",
        "options that do not go together",
        "Two options contradict each other, or an option and what is in a file: values beyond the range of the type they are to be written in, a name that ends as another kind of file does. The message names both; change one.",
    ),
    code(
        "P0501",
        "the run does not fit",
        "The plan needs more memory than there is (or than `--memory` allows). The message names the phase and what takes most of it. With `--memory`, `pipe plan` plans the document again with each change that may help, and names those that need less: a smaller `batch_size` with a larger `accumulate`, `checkpointing: blocks`, a cache on disk, smaller previews or none, an optimizer with a smaller state, `checkpointing: offload` on GPUs, `storage: f8_e4m3`, a smaller rank, a lower resolution.",
    ),
];
