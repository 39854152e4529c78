# Print an optspec for argparse to handle cmd's options that are independent of any subcommand.
function __fish_pipe_global_optspecs
    string join \n color= q/quiet h/help V/version
end

function __fish_pipe_needs_command
    # Figure out if the current invocation already has a command.
    set -l cmd (commandline -opc)
    set -e cmd[1]
    argparse -s (__fish_pipe_global_optspecs) -- $cmd 2>/dev/null
    or return
    if set -q argv[1]
        # Also print the command, so this can be used to figure out what it is.
        echo $argv[1]
        return 1
    end
    return 0
end

function __fish_pipe_using_subcommand
    set -l cmd (__fish_pipe_needs_command)
    test -z "$cmd"
    and return 1
    contains -- $cmd[1] $argv
end

complete -c pipe -n "__fish_pipe_needs_command" -l color -d 'When to use colours' -r -f -a "auto\t''
always\t''
never\t''"
complete -c pipe -n "__fish_pipe_needs_command" -s q -l quiet -d 'Print errors and results only'
complete -c pipe -n "__fish_pipe_needs_command" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c pipe -n "__fish_pipe_needs_command" -s V -l version -d 'Print version'
complete -c pipe -n "__fish_pipe_needs_command" -f -a "run" -d 'Train: check the document, plan it, carry it out'
complete -c pipe -n "__fish_pipe_needs_command" -f -a "check" -d 'Check documents: structure, graph, files, and whether the nodes go together'
complete -c pipe -n "__fish_pipe_needs_command" -f -a "plan" -d 'Say what a run will need: steps, memory and time of each phase, disk'
complete -c pipe -n "__fish_pipe_needs_command" -f -a "graph" -d 'Draw the graph of a document'
complete -c pipe -n "__fish_pipe_needs_command" -f -a "init" -d 'Write a pipeline to begin with, its schema, and settings for editors'
complete -c pipe -n "__fish_pipe_needs_command" -f -a "migrate" -d 'Turn a set-up of another trainer into a document'
complete -c pipe -n "__fish_pipe_needs_command" -f -a "nodes" -d 'List the node types, or show the ports, fields and an example of one'
complete -c pipe -n "__fish_pipe_needs_command" -f -a "explain" -d 'Explain a code (P0104), a node type (adapter.lora) or a field (adapter.lora.rank, train.steps, rank)'
complete -c pipe -n "__fish_pipe_needs_command" -f -a "inspect" -d 'Say what a weight file or a model folder is: architecture, layout, types, size, metadata'
complete -c pipe -n "__fish_pipe_needs_command" -f -a "merge" -d 'Merge adapters into a model, or several LoRAs into one'
complete -c pipe -n "__fish_pipe_needs_command" -f -a "extract" -d 'Extract a LoRA from the difference of two models, or a lower rank from a DyLoRA'
complete -c pipe -n "__fish_pipe_needs_command" -f -a "convert" -d 'Convert a model or an adapter to another layout, other names or another element type'
complete -c pipe -n "__fish_pipe_needs_command" -f -a "resize" -d 'Change the rank of a LoRA by SVD, to a fixed one or to what each layer needs'
complete -c pipe -n "__fish_pipe_needs_command" -f -a "schema" -d 'Print the JSON Schema (draft-07) of documents, for editors'
complete -c pipe -n "__fish_pipe_needs_command" -f -a "doctor" -d 'Show what this build and this machine have: devices, memory, disk, cache'
complete -c pipe -n "__fish_pipe_needs_command" -f -a "completions" -d 'Print the completion script of a shell'
complete -c pipe -n "__fish_pipe_needs_command" -f -a "help" -d 'Print this message or the help of the given subcommand(s)'
complete -c pipe -n "__fish_pipe_using_subcommand run" -l set -d 'Sets a field of the document, with the same checking: `--set nodes.adamw.learning_rate=2e-4`; `null` takes it out' -r
complete -c pipe -n "__fish_pipe_using_subcommand run" -l device -d 'Sets `train.device`: auto, cpu, cuda, wgpu, or one of several as in cuda:1' -r -f -a "auto\t''
cpu\t''
cuda\t''
wgpu\t''"
complete -c pipe -n "__fish_pipe_using_subcommand run" -l steps -d 'Train so many steps: short for `--set train.steps=N`' -r
complete -c pipe -n "__fish_pipe_using_subcommand run" -l output -d 'Folder for the run\'s files, in place of `output` in the document; from the working directory' -r -F
complete -c pipe -n "__fish_pipe_using_subcommand run" -l color -d 'When to use colours' -r -f -a "auto\t''
always\t''
never\t''"
complete -c pipe -n "__fish_pipe_using_subcommand run" -l resume -d 'Go on from the last saved state of the run\'s folder; an error where there is none. `train.resume: latest` in the document begins the run in that case'
complete -c pipe -n "__fish_pipe_using_subcommand run" -s q -l quiet -d 'Print errors and results only'
complete -c pipe -n "__fish_pipe_using_subcommand run" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c pipe -n "__fish_pipe_using_subcommand check" -l format -d 'How to print what is found' -r -f -a "human\t'With the lines of the document'
concise\t'One line each'
json\t'A JSON array'
github\t'Workflow commands of GitHub Actions'
sarif\t'SARIF 2.1.0, for code scanning'"
complete -c pipe -n "__fish_pipe_using_subcommand check" -l set -d 'Sets a field of the document, with the same checking: `--set nodes.adamw.learning_rate=2e-4`; `null` takes it out' -r
complete -c pipe -n "__fish_pipe_using_subcommand check" -l device -d 'Sets `train.device`: auto, cpu, cuda, wgpu, or one of several as in cuda:1' -r -f -a "auto\t''
cpu\t''
cuda\t''
wgpu\t''"
complete -c pipe -n "__fish_pipe_using_subcommand check" -l color -d 'When to use colours' -r -f -a "auto\t''
always\t''
never\t''"
complete -c pipe -n "__fish_pipe_using_subcommand check" -l without-files -d 'Do not ask for the weights and images that the document names: what is there is checked, for what is not a usual size is assumed (a hundred images, the full size of the model\'s family)'
complete -c pipe -n "__fish_pipe_using_subcommand check" -s q -l quiet -d 'Print errors and results only'
complete -c pipe -n "__fish_pipe_using_subcommand check" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c pipe -n "__fish_pipe_using_subcommand plan" -l memory -d 'Memory that the run may take, such as 12GiB' -r
complete -c pipe -n "__fish_pipe_using_subcommand plan" -l format -d 'How to print the plan' -r -f -a "human\t'For people'
json\t'For programs'"
complete -c pipe -n "__fish_pipe_using_subcommand plan" -l set -d 'Sets a field of the document, with the same checking: `--set nodes.adamw.learning_rate=2e-4`; `null` takes it out' -r
complete -c pipe -n "__fish_pipe_using_subcommand plan" -l device -d 'Sets `train.device`: auto, cpu, cuda, wgpu, or one of several as in cuda:1' -r -f -a "auto\t''
cpu\t''
cuda\t''
wgpu\t''"
complete -c pipe -n "__fish_pipe_using_subcommand plan" -l color -d 'When to use colours' -r -f -a "auto\t''
always\t''
never\t''"
complete -c pipe -n "__fish_pipe_using_subcommand plan" -l without-files -d 'Do not ask for the weights and images that the document names: what is there is checked, for what is not a usual size is assumed (a hundred images, the full size of the model\'s family)'
complete -c pipe -n "__fish_pipe_using_subcommand plan" -s q -l quiet -d 'Print errors and results only'
complete -c pipe -n "__fish_pipe_using_subcommand plan" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c pipe -n "__fish_pipe_using_subcommand graph" -l format -d 'What to write' -r -f -a "dot\t'For Graphviz'
mermaid\t'For Markdown'
json\t'Nodes, edges and the order of building as data'
svg\t'A picture'"
complete -c pipe -n "__fish_pipe_using_subcommand graph" -s o -l output -d 'Where to write it, instead of standard output' -r -F
complete -c pipe -n "__fish_pipe_using_subcommand graph" -l set -d 'Sets a field of the document, with the same checking: `--set nodes.adamw.learning_rate=2e-4`; `null` takes it out' -r
complete -c pipe -n "__fish_pipe_using_subcommand graph" -l device -d 'Sets `train.device`: auto, cpu, cuda, wgpu, or one of several as in cuda:1' -r -f -a "auto\t''
cpu\t''
cuda\t''
wgpu\t''"
complete -c pipe -n "__fish_pipe_using_subcommand graph" -l color -d 'When to use colours' -r -f -a "auto\t''
always\t''
never\t''"
complete -c pipe -n "__fish_pipe_using_subcommand graph" -s q -l quiet -d 'Print errors and results only'
complete -c pipe -n "__fish_pipe_using_subcommand graph" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c pipe -n "__fish_pipe_using_subcommand init" -l color -d 'When to use colours' -r -f -a "auto\t''
always\t''
never\t''"
complete -c pipe -n "__fish_pipe_using_subcommand init" -l list -d 'List the templates'
complete -c pipe -n "__fish_pipe_using_subcommand init" -l force -d 'Overwrite files that are already there'
complete -c pipe -n "__fish_pipe_using_subcommand init" -s q -l quiet -d 'Print errors and results only'
complete -c pipe -n "__fish_pipe_using_subcommand init" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c pipe -n "__fish_pipe_using_subcommand migrate" -l config -d 'The configuration, the file of `--config_file` (TOML)' -r -F
complete -c pipe -n "__fish_pipe_using_subcommand migrate" -l dataset -d 'The dataset, the file of `--dataset_config` (TOML or JSON). Default: the one that the set-up names' -r -F
complete -c pipe -n "__fish_pipe_using_subcommand migrate" -l script -d 'Name of the training script, such as sdxl_train_network, where the set-up does not tell it' -r
complete -c pipe -n "__fish_pipe_using_subcommand migrate" -s o -l output -d 'Where to write the document; `-` is standard output. Default: the run\'s name with `.pipe.yaml`' -r -F
complete -c pipe -n "__fish_pipe_using_subcommand migrate" -l format -d 'How to print the report: on standard error for people, on standard output for programs' -r -f -a "human\t'For people'
json\t'For programs'"
complete -c pipe -n "__fish_pipe_using_subcommand migrate" -l color -d 'When to use colours' -r -f -a "auto\t''
always\t''
never\t''"
complete -c pipe -n "__fish_pipe_using_subcommand migrate" -l force -d 'Overwrite the file if it is there'
complete -c pipe -n "__fish_pipe_using_subcommand migrate" -l strict -d 'Exit with 1 when an option could not be carried over'
complete -c pipe -n "__fish_pipe_using_subcommand migrate" -s q -l quiet -d 'Print errors and results only'
complete -c pipe -n "__fish_pipe_using_subcommand migrate" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c pipe -n "__fish_pipe_using_subcommand nodes" -l color -d 'When to use colours' -r -f -a "auto\t''
always\t''
never\t''"
complete -c pipe -n "__fish_pipe_using_subcommand nodes" -s q -l quiet -d 'Print errors and results only'
complete -c pipe -n "__fish_pipe_using_subcommand nodes" -s h -l help -d 'Print help'
complete -c pipe -n "__fish_pipe_using_subcommand explain" -l color -d 'When to use colours' -r -f -a "auto\t''
always\t''
never\t''"
complete -c pipe -n "__fish_pipe_using_subcommand explain" -s q -l quiet -d 'Print errors and results only'
complete -c pipe -n "__fish_pipe_using_subcommand explain" -s h -l help -d 'Print help'
complete -c pipe -n "__fish_pipe_using_subcommand inspect" -l format -d 'How to print it' -r -f -a "human\t'For people'
json\t'For programs'"
complete -c pipe -n "__fish_pipe_using_subcommand inspect" -l color -d 'When to use colours' -r -f -a "auto\t''
always\t''
never\t''"
complete -c pipe -n "__fish_pipe_using_subcommand inspect" -l tensors -d 'List every tensor with its type and shape'
complete -c pipe -n "__fish_pipe_using_subcommand inspect" -s q -l quiet -d 'Print errors and results only'
complete -c pipe -n "__fish_pipe_using_subcommand inspect" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c pipe -n "__fish_pipe_using_subcommand merge" -s l -l lora -d 'An adapter and its strength, 1 when left out: `style.safetensors=0.8`. May be given several times' -r
complete -c pipe -n "__fish_pipe_using_subcommand merge" -s b -l base -d 'The model to merge into: a checkpoint, a Diffusers folder, or a part alone' -r -F
complete -c pipe -n "__fish_pipe_using_subcommand merge" -s o -l output -d 'File or folder to write' -r -F
complete -c pipe -n "__fish_pipe_using_subcommand merge" -l format -d 'Layout of the merged model. Default: that of the base' -r -f -a "single-file\t'One safetensors file of all parts with the original code\'s names'
model-only\t'The denoiser alone with its authors\' names, as FLUX and Lumina are passed on'
ckpt\t'A PyTorch checkpoint of all parts'
diffusers\t'A Diffusers folder'"
complete -c pipe -n "__fish_pipe_using_subcommand merge" -l dtype -d 'Element type. Default: that of the base, or of the first LoRA' -r -f -a "f32\t'32-bit floats'
f16\t'16-bit IEEE floats'
bf16\t'bfloat16'
fp8-e4m3\t'8-bit floats with 4 exponent bits, without scales'
fp8-e5m2\t'8-bit floats with 5 exponent bits, without scales'"
complete -c pipe -n "__fish_pipe_using_subcommand merge" -l like -d 'A Diffusers pipeline whose configurations, tokenizers and scheduler a written folder gets' -r -F
complete -c pipe -n "__fish_pipe_using_subcommand merge" -l rank -d 'Several LoRAs into one: its rank, found by SVD. Default: the sum of their ranks, which is exact' -r
complete -c pipe -n "__fish_pipe_using_subcommand merge" -l conv-rank -d 'Rank of convolutions larger than 1×1. Default: `--rank`' -r
complete -c pipe -n "__fish_pipe_using_subcommand merge" -l for -d 'Several LoRAs into one: the model that they are for, where it is of no public size and their names differ' -r -F
complete -c pipe -n "__fish_pipe_using_subcommand merge" -l color -d 'When to use colours' -r -f -a "auto\t''
always\t''
never\t''"
complete -c pipe -n "__fish_pipe_using_subcommand merge" -l force -d 'Replace what is there; never a file that is read'
complete -c pipe -n "__fish_pipe_using_subcommand merge" -l skip-unknown -d 'Leave out layers and tensors that match nothing. Default: they are an error'
complete -c pipe -n "__fish_pipe_using_subcommand merge" -s q -l quiet -d 'Print errors and results only'
complete -c pipe -n "__fish_pipe_using_subcommand merge" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c pipe -n "__fish_pipe_using_subcommand extract" -s b -l base -d 'The model it was trained from' -r -F
complete -c pipe -n "__fish_pipe_using_subcommand extract" -s o -l output -d 'File or folder to write' -r -F
complete -c pipe -n "__fish_pipe_using_subcommand extract" -l rank -d 'Rank' -r
complete -c pipe -n "__fish_pipe_using_subcommand extract" -l conv-rank -d 'U-Nets: also the residual blocks and samplers, their 3×3 convolutions with this rank' -r
complete -c pipe -n "__fish_pipe_using_subcommand extract" -l clamp-quantile -d 'Cut the factors to ± this quantile of their values; other programs take 0.99. Default: they are not cut' -r
complete -c pipe -n "__fish_pipe_using_subcommand extract" -l min-diff -d 'A text encoder or denoiser whose largest difference is not above this counts as untrained. Default: 1e-4' -r
complete -c pipe -n "__fish_pipe_using_subcommand extract" -l dtype -d 'Element type. Default: f16, or that of the DyLoRA' -r -f -a "f32\t'32-bit floats'
f16\t'16-bit IEEE floats'
bf16\t'bfloat16'
fp8-e4m3\t'8-bit floats with 4 exponent bits, without scales'
fp8-e5m2\t'8-bit floats with 5 exponent bits, without scales'"
complete -c pipe -n "__fish_pipe_using_subcommand extract" -l color -d 'When to use colours' -r -f -a "auto\t''
always\t''
never\t''"
complete -c pipe -n "__fish_pipe_using_subcommand extract" -l force -d 'Replace what is there; never a file that is read'
complete -c pipe -n "__fish_pipe_using_subcommand extract" -l embedders -d 'Transformers: also the embedders before the blocks, and SD3\'s last layer'
complete -c pipe -n "__fish_pipe_using_subcommand extract" -l dylora -d 'The file is a DyLoRA, although its metadata do not say so'
complete -c pipe -n "__fish_pipe_using_subcommand extract" -s q -l quiet -d 'Print errors and results only'
complete -c pipe -n "__fish_pipe_using_subcommand extract" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c pipe -n "__fish_pipe_using_subcommand convert" -s o -l output -d 'File or folder to write' -r -F
complete -c pipe -n "__fish_pipe_using_subcommand convert" -l format -d 'Layout of a model, or names of a LoRA. Default: as they are; a `.ckpt` becomes safetensors' -r -f -a "single-file\t'Model: one safetensors file of all parts with the original code\'s names'
model-only\t'Model: the denoiser alone with its authors\' names, as FLUX and Lumina are passed on'
ckpt\t'Model: a PyTorch checkpoint of all parts'
diffusers\t'Model: a Diffusers folder'
kohya\t'LoRA: `lora_unet_….lora_down.weight` with α'
peft\t'LoRA: `unet.….lora_A.weight`, as PEFT and Diffusers write it; α goes into the factors'"
complete -c pipe -n "__fish_pipe_using_subcommand convert" -l dtype -d 'Element type. Default: as it is' -r -f -a "f32\t'32-bit floats'
f16\t'16-bit IEEE floats'
bf16\t'bfloat16'
fp8-e4m3\t'8-bit floats with 4 exponent bits, without scales'
fp8-e5m2\t'8-bit floats with 5 exponent bits, without scales'"
complete -c pipe -n "__fish_pipe_using_subcommand convert" -l like -d 'A Diffusers pipeline whose configurations, tokenizers and scheduler a written folder gets' -r -F
complete -c pipe -n "__fish_pipe_using_subcommand convert" -l for -d 'The model that an adapter is for, where it is of no public size' -r -F
complete -c pipe -n "__fish_pipe_using_subcommand convert" -l color -d 'When to use colours' -r -f -a "auto\t''
always\t''
never\t''"
complete -c pipe -n "__fish_pipe_using_subcommand convert" -l force -d 'Replace what is there; never a file that is read'
complete -c pipe -n "__fish_pipe_using_subcommand convert" -l skip-unknown -d 'Leave out tensors of a model that nothing is known about. Default: they are an error'
complete -c pipe -n "__fish_pipe_using_subcommand convert" -s q -l quiet -d 'Print errors and results only'
complete -c pipe -n "__fish_pipe_using_subcommand convert" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c pipe -n "__fish_pipe_using_subcommand resize" -s o -l output -d 'File or folder to write' -r -F
complete -c pipe -n "__fish_pipe_using_subcommand resize" -l rank -d 'Rank; with a dynamic method the largest allowed' -r
complete -c pipe -n "__fish_pipe_using_subcommand resize" -l conv-rank -d 'Rank of convolutions larger than 1×1. Default: `--rank`' -r
complete -c pipe -n "__fish_pipe_using_subcommand resize" -l sv-ratio -d 'Keep the singular values of a layer that are above its largest divided by this' -r
complete -c pipe -n "__fish_pipe_using_subcommand resize" -l sv-fro -d 'Keep as few singular values as hold this part of a layer\'s Frobenius norm, from 0 to 1' -r
complete -c pipe -n "__fish_pipe_using_subcommand resize" -l sv-cumulative -d 'Keep as few singular values as hold this part of their sum, from 0 to 1' -r
complete -c pipe -n "__fish_pipe_using_subcommand resize" -l dtype -d 'Element type. Default: that of the file' -r -f -a "f32\t'32-bit floats'
f16\t'16-bit IEEE floats'
bf16\t'bfloat16'
fp8-e4m3\t'8-bit floats with 4 exponent bits, without scales'
fp8-e5m2\t'8-bit floats with 5 exponent bits, without scales'"
complete -c pipe -n "__fish_pipe_using_subcommand resize" -l color -d 'When to use colours' -r -f -a "auto\t''
always\t''
never\t''"
complete -c pipe -n "__fish_pipe_using_subcommand resize" -l force -d 'Replace what is there; never a file that is read'
complete -c pipe -n "__fish_pipe_using_subcommand resize" -s q -l quiet -d 'Print errors and results only'
complete -c pipe -n "__fish_pipe_using_subcommand resize" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c pipe -n "__fish_pipe_using_subcommand schema" -s o -l output -d 'Where to write it, instead of standard output' -r -F
complete -c pipe -n "__fish_pipe_using_subcommand schema" -l color -d 'When to use colours' -r -f -a "auto\t''
always\t''
never\t''"
complete -c pipe -n "__fish_pipe_using_subcommand schema" -s q -l quiet -d 'Print errors and results only'
complete -c pipe -n "__fish_pipe_using_subcommand schema" -s h -l help -d 'Print help'
complete -c pipe -n "__fish_pipe_using_subcommand doctor" -l format -d 'How to print it' -r -f -a "human\t'For people'
json\t'For programs'"
complete -c pipe -n "__fish_pipe_using_subcommand doctor" -l color -d 'When to use colours' -r -f -a "auto\t''
always\t''
never\t''"
complete -c pipe -n "__fish_pipe_using_subcommand doctor" -s q -l quiet -d 'Print errors and results only'
complete -c pipe -n "__fish_pipe_using_subcommand doctor" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c pipe -n "__fish_pipe_using_subcommand completions" -l color -d 'When to use colours' -r -f -a "auto\t''
always\t''
never\t''"
complete -c pipe -n "__fish_pipe_using_subcommand completions" -s q -l quiet -d 'Print errors and results only'
complete -c pipe -n "__fish_pipe_using_subcommand completions" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c pipe -n "__fish_pipe_using_subcommand help; and not __fish_seen_subcommand_from run check plan graph init migrate nodes explain inspect merge extract convert resize schema doctor completions help" -f -a "run" -d 'Train: check the document, plan it, carry it out'
complete -c pipe -n "__fish_pipe_using_subcommand help; and not __fish_seen_subcommand_from run check plan graph init migrate nodes explain inspect merge extract convert resize schema doctor completions help" -f -a "check" -d 'Check documents: structure, graph, files, and whether the nodes go together'
complete -c pipe -n "__fish_pipe_using_subcommand help; and not __fish_seen_subcommand_from run check plan graph init migrate nodes explain inspect merge extract convert resize schema doctor completions help" -f -a "plan" -d 'Say what a run will need: steps, memory and time of each phase, disk'
complete -c pipe -n "__fish_pipe_using_subcommand help; and not __fish_seen_subcommand_from run check plan graph init migrate nodes explain inspect merge extract convert resize schema doctor completions help" -f -a "graph" -d 'Draw the graph of a document'
complete -c pipe -n "__fish_pipe_using_subcommand help; and not __fish_seen_subcommand_from run check plan graph init migrate nodes explain inspect merge extract convert resize schema doctor completions help" -f -a "init" -d 'Write a pipeline to begin with, its schema, and settings for editors'
complete -c pipe -n "__fish_pipe_using_subcommand help; and not __fish_seen_subcommand_from run check plan graph init migrate nodes explain inspect merge extract convert resize schema doctor completions help" -f -a "migrate" -d 'Turn a set-up of another trainer into a document'
complete -c pipe -n "__fish_pipe_using_subcommand help; and not __fish_seen_subcommand_from run check plan graph init migrate nodes explain inspect merge extract convert resize schema doctor completions help" -f -a "nodes" -d 'List the node types, or show the ports, fields and an example of one'
complete -c pipe -n "__fish_pipe_using_subcommand help; and not __fish_seen_subcommand_from run check plan graph init migrate nodes explain inspect merge extract convert resize schema doctor completions help" -f -a "explain" -d 'Explain a code (P0104), a node type (adapter.lora) or a field (adapter.lora.rank, train.steps, rank)'
complete -c pipe -n "__fish_pipe_using_subcommand help; and not __fish_seen_subcommand_from run check plan graph init migrate nodes explain inspect merge extract convert resize schema doctor completions help" -f -a "inspect" -d 'Say what a weight file or a model folder is: architecture, layout, types, size, metadata'
complete -c pipe -n "__fish_pipe_using_subcommand help; and not __fish_seen_subcommand_from run check plan graph init migrate nodes explain inspect merge extract convert resize schema doctor completions help" -f -a "merge" -d 'Merge adapters into a model, or several LoRAs into one'
complete -c pipe -n "__fish_pipe_using_subcommand help; and not __fish_seen_subcommand_from run check plan graph init migrate nodes explain inspect merge extract convert resize schema doctor completions help" -f -a "extract" -d 'Extract a LoRA from the difference of two models, or a lower rank from a DyLoRA'
complete -c pipe -n "__fish_pipe_using_subcommand help; and not __fish_seen_subcommand_from run check plan graph init migrate nodes explain inspect merge extract convert resize schema doctor completions help" -f -a "convert" -d 'Convert a model or an adapter to another layout, other names or another element type'
complete -c pipe -n "__fish_pipe_using_subcommand help; and not __fish_seen_subcommand_from run check plan graph init migrate nodes explain inspect merge extract convert resize schema doctor completions help" -f -a "resize" -d 'Change the rank of a LoRA by SVD, to a fixed one or to what each layer needs'
complete -c pipe -n "__fish_pipe_using_subcommand help; and not __fish_seen_subcommand_from run check plan graph init migrate nodes explain inspect merge extract convert resize schema doctor completions help" -f -a "schema" -d 'Print the JSON Schema (draft-07) of documents, for editors'
complete -c pipe -n "__fish_pipe_using_subcommand help; and not __fish_seen_subcommand_from run check plan graph init migrate nodes explain inspect merge extract convert resize schema doctor completions help" -f -a "doctor" -d 'Show what this build and this machine have: devices, memory, disk, cache'
complete -c pipe -n "__fish_pipe_using_subcommand help; and not __fish_seen_subcommand_from run check plan graph init migrate nodes explain inspect merge extract convert resize schema doctor completions help" -f -a "completions" -d 'Print the completion script of a shell'
complete -c pipe -n "__fish_pipe_using_subcommand help; and not __fish_seen_subcommand_from run check plan graph init migrate nodes explain inspect merge extract convert resize schema doctor completions help" -f -a "help" -d 'Print this message or the help of the given subcommand(s)'
