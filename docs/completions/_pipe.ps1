
using namespace System.Management.Automation
using namespace System.Management.Automation.Language

Register-ArgumentCompleter -Native -CommandName 'pipe' -ScriptBlock {
    param($wordToComplete, $commandAst, $cursorPosition)

    $commandElements = $commandAst.CommandElements
    $command = @(
        'pipe'
        for ($i = 1; $i -lt $commandElements.Count; $i++) {
            $element = $commandElements[$i]
            if ($element -isnot [StringConstantExpressionAst] -or
                $element.StringConstantType -ne [StringConstantType]::BareWord -or
                $element.Value.StartsWith('-') -or
                $element.Value -eq $wordToComplete) {
                break
        }
        $element.Value
    }) -join ';'

    $completions = @(switch ($command) {
        'pipe' {
            [CompletionResult]::new('--color', '--color', [CompletionResultType]::ParameterName, 'When to use colours')
            [CompletionResult]::new('-q', '-q', [CompletionResultType]::ParameterName, 'Print errors and results only')
            [CompletionResult]::new('--quiet', '--quiet', [CompletionResultType]::ParameterName, 'Print errors and results only')
            [CompletionResult]::new('-h', '-h', [CompletionResultType]::ParameterName, 'Print help (see more with ''--help'')')
            [CompletionResult]::new('--help', '--help', [CompletionResultType]::ParameterName, 'Print help (see more with ''--help'')')
            [CompletionResult]::new('-V', '-V ', [CompletionResultType]::ParameterName, 'Print version')
            [CompletionResult]::new('--version', '--version', [CompletionResultType]::ParameterName, 'Print version')
            [CompletionResult]::new('run', 'run', [CompletionResultType]::ParameterValue, 'Train: check the document, plan it, carry it out')
            [CompletionResult]::new('check', 'check', [CompletionResultType]::ParameterValue, 'Check documents: structure, graph, files, and whether the nodes go together')
            [CompletionResult]::new('plan', 'plan', [CompletionResultType]::ParameterValue, 'Say what a run will need: steps, memory and time of each phase, disk')
            [CompletionResult]::new('graph', 'graph', [CompletionResultType]::ParameterValue, 'Draw the graph of a document')
            [CompletionResult]::new('init', 'init', [CompletionResultType]::ParameterValue, 'Write a pipeline to begin with, its schema, and settings for editors')
            [CompletionResult]::new('migrate', 'migrate', [CompletionResultType]::ParameterValue, 'Turn a set-up of another trainer into a document')
            [CompletionResult]::new('nodes', 'nodes', [CompletionResultType]::ParameterValue, 'List the node types, or show the ports, fields and an example of one')
            [CompletionResult]::new('explain', 'explain', [CompletionResultType]::ParameterValue, 'Explain a code (P0104), a node type (adapter.lora) or a field (adapter.lora.rank, train.steps, rank)')
            [CompletionResult]::new('inspect', 'inspect', [CompletionResultType]::ParameterValue, 'Say what a weight file or a model folder is: architecture, layout, types, size, metadata')
            [CompletionResult]::new('merge', 'merge', [CompletionResultType]::ParameterValue, 'Merge adapters into a model, or several LoRAs into one')
            [CompletionResult]::new('extract', 'extract', [CompletionResultType]::ParameterValue, 'Extract a LoRA from the difference of two models, or a lower rank from a DyLoRA')
            [CompletionResult]::new('convert', 'convert', [CompletionResultType]::ParameterValue, 'Convert a model or an adapter to another layout, other names or another element type')
            [CompletionResult]::new('resize', 'resize', [CompletionResultType]::ParameterValue, 'Change the rank of a LoRA by SVD, to a fixed one or to what each layer needs')
            [CompletionResult]::new('schema', 'schema', [CompletionResultType]::ParameterValue, 'Print the JSON Schema (draft-07) of documents, for editors')
            [CompletionResult]::new('doctor', 'doctor', [CompletionResultType]::ParameterValue, 'Show what this build and this machine have: devices, memory, disk, cache')
            [CompletionResult]::new('completions', 'completions', [CompletionResultType]::ParameterValue, 'Print the completion script of a shell')
            [CompletionResult]::new('help', 'help', [CompletionResultType]::ParameterValue, 'Print this message or the help of the given subcommand(s)')
            break
        }
        'pipe;run' {
            [CompletionResult]::new('--set', '--set', [CompletionResultType]::ParameterName, 'Sets a field of the document, with the same checking: `--set nodes.adamw.learning_rate=2e-4`; `null` takes it out')
            [CompletionResult]::new('--device', '--device', [CompletionResultType]::ParameterName, 'Sets `train.device`: auto, cpu, cuda, wgpu, or one of several as in cuda:1')
            [CompletionResult]::new('--steps', '--steps', [CompletionResultType]::ParameterName, 'Train so many steps: short for `--set train.steps=N`')
            [CompletionResult]::new('--output', '--output', [CompletionResultType]::ParameterName, 'Folder for the run''s files, in place of `output` in the document; from the working directory')
            [CompletionResult]::new('--color', '--color', [CompletionResultType]::ParameterName, 'When to use colours')
            [CompletionResult]::new('--resume', '--resume', [CompletionResultType]::ParameterName, 'Go on from the last saved state of the run''s folder; an error where there is none. `train.resume: latest` in the document begins the run in that case')
            [CompletionResult]::new('-q', '-q', [CompletionResultType]::ParameterName, 'Print errors and results only')
            [CompletionResult]::new('--quiet', '--quiet', [CompletionResultType]::ParameterName, 'Print errors and results only')
            [CompletionResult]::new('-h', '-h', [CompletionResultType]::ParameterName, 'Print help (see more with ''--help'')')
            [CompletionResult]::new('--help', '--help', [CompletionResultType]::ParameterName, 'Print help (see more with ''--help'')')
            break
        }
        'pipe;check' {
            [CompletionResult]::new('--format', '--format', [CompletionResultType]::ParameterName, 'How to print what is found')
            [CompletionResult]::new('--set', '--set', [CompletionResultType]::ParameterName, 'Sets a field of the document, with the same checking: `--set nodes.adamw.learning_rate=2e-4`; `null` takes it out')
            [CompletionResult]::new('--device', '--device', [CompletionResultType]::ParameterName, 'Sets `train.device`: auto, cpu, cuda, wgpu, or one of several as in cuda:1')
            [CompletionResult]::new('--color', '--color', [CompletionResultType]::ParameterName, 'When to use colours')
            [CompletionResult]::new('--without-files', '--without-files', [CompletionResultType]::ParameterName, 'Do not ask for the weights and images that the document names: what is there is checked, for what is not a usual size is assumed (a hundred images, the full size of the model''s family)')
            [CompletionResult]::new('-q', '-q', [CompletionResultType]::ParameterName, 'Print errors and results only')
            [CompletionResult]::new('--quiet', '--quiet', [CompletionResultType]::ParameterName, 'Print errors and results only')
            [CompletionResult]::new('-h', '-h', [CompletionResultType]::ParameterName, 'Print help (see more with ''--help'')')
            [CompletionResult]::new('--help', '--help', [CompletionResultType]::ParameterName, 'Print help (see more with ''--help'')')
            break
        }
        'pipe;plan' {
            [CompletionResult]::new('--memory', '--memory', [CompletionResultType]::ParameterName, 'Memory that the run may take, such as 12GiB')
            [CompletionResult]::new('--format', '--format', [CompletionResultType]::ParameterName, 'How to print the plan')
            [CompletionResult]::new('--set', '--set', [CompletionResultType]::ParameterName, 'Sets a field of the document, with the same checking: `--set nodes.adamw.learning_rate=2e-4`; `null` takes it out')
            [CompletionResult]::new('--device', '--device', [CompletionResultType]::ParameterName, 'Sets `train.device`: auto, cpu, cuda, wgpu, or one of several as in cuda:1')
            [CompletionResult]::new('--color', '--color', [CompletionResultType]::ParameterName, 'When to use colours')
            [CompletionResult]::new('--without-files', '--without-files', [CompletionResultType]::ParameterName, 'Do not ask for the weights and images that the document names: what is there is checked, for what is not a usual size is assumed (a hundred images, the full size of the model''s family)')
            [CompletionResult]::new('-q', '-q', [CompletionResultType]::ParameterName, 'Print errors and results only')
            [CompletionResult]::new('--quiet', '--quiet', [CompletionResultType]::ParameterName, 'Print errors and results only')
            [CompletionResult]::new('-h', '-h', [CompletionResultType]::ParameterName, 'Print help (see more with ''--help'')')
            [CompletionResult]::new('--help', '--help', [CompletionResultType]::ParameterName, 'Print help (see more with ''--help'')')
            break
        }
        'pipe;graph' {
            [CompletionResult]::new('--format', '--format', [CompletionResultType]::ParameterName, 'What to write')
            [CompletionResult]::new('-o', '-o', [CompletionResultType]::ParameterName, 'Where to write it, instead of standard output')
            [CompletionResult]::new('--output', '--output', [CompletionResultType]::ParameterName, 'Where to write it, instead of standard output')
            [CompletionResult]::new('--set', '--set', [CompletionResultType]::ParameterName, 'Sets a field of the document, with the same checking: `--set nodes.adamw.learning_rate=2e-4`; `null` takes it out')
            [CompletionResult]::new('--device', '--device', [CompletionResultType]::ParameterName, 'Sets `train.device`: auto, cpu, cuda, wgpu, or one of several as in cuda:1')
            [CompletionResult]::new('--color', '--color', [CompletionResultType]::ParameterName, 'When to use colours')
            [CompletionResult]::new('-q', '-q', [CompletionResultType]::ParameterName, 'Print errors and results only')
            [CompletionResult]::new('--quiet', '--quiet', [CompletionResultType]::ParameterName, 'Print errors and results only')
            [CompletionResult]::new('-h', '-h', [CompletionResultType]::ParameterName, 'Print help (see more with ''--help'')')
            [CompletionResult]::new('--help', '--help', [CompletionResultType]::ParameterName, 'Print help (see more with ''--help'')')
            break
        }
        'pipe;init' {
            [CompletionResult]::new('--color', '--color', [CompletionResultType]::ParameterName, 'When to use colours')
            [CompletionResult]::new('--list', '--list', [CompletionResultType]::ParameterName, 'List the templates')
            [CompletionResult]::new('--force', '--force', [CompletionResultType]::ParameterName, 'Overwrite files that are already there')
            [CompletionResult]::new('-q', '-q', [CompletionResultType]::ParameterName, 'Print errors and results only')
            [CompletionResult]::new('--quiet', '--quiet', [CompletionResultType]::ParameterName, 'Print errors and results only')
            [CompletionResult]::new('-h', '-h', [CompletionResultType]::ParameterName, 'Print help (see more with ''--help'')')
            [CompletionResult]::new('--help', '--help', [CompletionResultType]::ParameterName, 'Print help (see more with ''--help'')')
            break
        }
        'pipe;migrate' {
            [CompletionResult]::new('--config', '--config', [CompletionResultType]::ParameterName, 'The configuration, the file of `--config_file` (TOML)')
            [CompletionResult]::new('--dataset', '--dataset', [CompletionResultType]::ParameterName, 'The dataset, the file of `--dataset_config` (TOML or JSON). Default: the one that the set-up names')
            [CompletionResult]::new('--script', '--script', [CompletionResultType]::ParameterName, 'Name of the training script, such as sdxl_train_network, where the set-up does not tell it')
            [CompletionResult]::new('-o', '-o', [CompletionResultType]::ParameterName, 'Where to write the document; `-` is standard output. Default: the run''s name with `.pipe.yaml`')
            [CompletionResult]::new('--output', '--output', [CompletionResultType]::ParameterName, 'Where to write the document; `-` is standard output. Default: the run''s name with `.pipe.yaml`')
            [CompletionResult]::new('--format', '--format', [CompletionResultType]::ParameterName, 'How to print the report: on standard error for people, on standard output for programs')
            [CompletionResult]::new('--color', '--color', [CompletionResultType]::ParameterName, 'When to use colours')
            [CompletionResult]::new('--force', '--force', [CompletionResultType]::ParameterName, 'Overwrite the file if it is there')
            [CompletionResult]::new('--strict', '--strict', [CompletionResultType]::ParameterName, 'Exit with 1 when an option could not be carried over')
            [CompletionResult]::new('-q', '-q', [CompletionResultType]::ParameterName, 'Print errors and results only')
            [CompletionResult]::new('--quiet', '--quiet', [CompletionResultType]::ParameterName, 'Print errors and results only')
            [CompletionResult]::new('-h', '-h', [CompletionResultType]::ParameterName, 'Print help (see more with ''--help'')')
            [CompletionResult]::new('--help', '--help', [CompletionResultType]::ParameterName, 'Print help (see more with ''--help'')')
            break
        }
        'pipe;nodes' {
            [CompletionResult]::new('--color', '--color', [CompletionResultType]::ParameterName, 'When to use colours')
            [CompletionResult]::new('-q', '-q', [CompletionResultType]::ParameterName, 'Print errors and results only')
            [CompletionResult]::new('--quiet', '--quiet', [CompletionResultType]::ParameterName, 'Print errors and results only')
            [CompletionResult]::new('-h', '-h', [CompletionResultType]::ParameterName, 'Print help')
            [CompletionResult]::new('--help', '--help', [CompletionResultType]::ParameterName, 'Print help')
            break
        }
        'pipe;explain' {
            [CompletionResult]::new('--color', '--color', [CompletionResultType]::ParameterName, 'When to use colours')
            [CompletionResult]::new('-q', '-q', [CompletionResultType]::ParameterName, 'Print errors and results only')
            [CompletionResult]::new('--quiet', '--quiet', [CompletionResultType]::ParameterName, 'Print errors and results only')
            [CompletionResult]::new('-h', '-h', [CompletionResultType]::ParameterName, 'Print help')
            [CompletionResult]::new('--help', '--help', [CompletionResultType]::ParameterName, 'Print help')
            break
        }
        'pipe;inspect' {
            [CompletionResult]::new('--format', '--format', [CompletionResultType]::ParameterName, 'How to print it')
            [CompletionResult]::new('--color', '--color', [CompletionResultType]::ParameterName, 'When to use colours')
            [CompletionResult]::new('--tensors', '--tensors', [CompletionResultType]::ParameterName, 'List every tensor with its type and shape')
            [CompletionResult]::new('-q', '-q', [CompletionResultType]::ParameterName, 'Print errors and results only')
            [CompletionResult]::new('--quiet', '--quiet', [CompletionResultType]::ParameterName, 'Print errors and results only')
            [CompletionResult]::new('-h', '-h', [CompletionResultType]::ParameterName, 'Print help (see more with ''--help'')')
            [CompletionResult]::new('--help', '--help', [CompletionResultType]::ParameterName, 'Print help (see more with ''--help'')')
            break
        }
        'pipe;merge' {
            [CompletionResult]::new('-l', '-l', [CompletionResultType]::ParameterName, 'An adapter and its strength, 1 when left out: `style.safetensors=0.8`. May be given several times')
            [CompletionResult]::new('--lora', '--lora', [CompletionResultType]::ParameterName, 'An adapter and its strength, 1 when left out: `style.safetensors=0.8`. May be given several times')
            [CompletionResult]::new('-b', '-b', [CompletionResultType]::ParameterName, 'The model to merge into: a checkpoint, a Diffusers folder, or a part alone')
            [CompletionResult]::new('--base', '--base', [CompletionResultType]::ParameterName, 'The model to merge into: a checkpoint, a Diffusers folder, or a part alone')
            [CompletionResult]::new('-o', '-o', [CompletionResultType]::ParameterName, 'File or folder to write')
            [CompletionResult]::new('--output', '--output', [CompletionResultType]::ParameterName, 'File or folder to write')
            [CompletionResult]::new('--format', '--format', [CompletionResultType]::ParameterName, 'Layout of the merged model. Default: that of the base')
            [CompletionResult]::new('--dtype', '--dtype', [CompletionResultType]::ParameterName, 'Element type. Default: that of the base, or of the first LoRA')
            [CompletionResult]::new('--like', '--like', [CompletionResultType]::ParameterName, 'A Diffusers pipeline whose configurations, tokenizers and scheduler a written folder gets')
            [CompletionResult]::new('--rank', '--rank', [CompletionResultType]::ParameterName, 'Several LoRAs into one: its rank, found by SVD. Default: the sum of their ranks, which is exact')
            [CompletionResult]::new('--conv-rank', '--conv-rank', [CompletionResultType]::ParameterName, 'Rank of convolutions larger than 1×1. Default: `--rank`')
            [CompletionResult]::new('--for', '--for', [CompletionResultType]::ParameterName, 'Several LoRAs into one: the model that they are for, where it is of no public size and their names differ')
            [CompletionResult]::new('--color', '--color', [CompletionResultType]::ParameterName, 'When to use colours')
            [CompletionResult]::new('--force', '--force', [CompletionResultType]::ParameterName, 'Replace what is there; never a file that is read')
            [CompletionResult]::new('--skip-unknown', '--skip-unknown', [CompletionResultType]::ParameterName, 'Leave out layers and tensors that match nothing. Default: they are an error')
            [CompletionResult]::new('-q', '-q', [CompletionResultType]::ParameterName, 'Print errors and results only')
            [CompletionResult]::new('--quiet', '--quiet', [CompletionResultType]::ParameterName, 'Print errors and results only')
            [CompletionResult]::new('-h', '-h', [CompletionResultType]::ParameterName, 'Print help (see more with ''--help'')')
            [CompletionResult]::new('--help', '--help', [CompletionResultType]::ParameterName, 'Print help (see more with ''--help'')')
            break
        }
        'pipe;extract' {
            [CompletionResult]::new('-b', '-b', [CompletionResultType]::ParameterName, 'The model it was trained from')
            [CompletionResult]::new('--base', '--base', [CompletionResultType]::ParameterName, 'The model it was trained from')
            [CompletionResult]::new('-o', '-o', [CompletionResultType]::ParameterName, 'File or folder to write')
            [CompletionResult]::new('--output', '--output', [CompletionResultType]::ParameterName, 'File or folder to write')
            [CompletionResult]::new('--rank', '--rank', [CompletionResultType]::ParameterName, 'Rank')
            [CompletionResult]::new('--conv-rank', '--conv-rank', [CompletionResultType]::ParameterName, 'U-Nets: also the residual blocks and samplers, their 3×3 convolutions with this rank')
            [CompletionResult]::new('--clamp-quantile', '--clamp-quantile', [CompletionResultType]::ParameterName, 'Cut the factors to ± this quantile of their values; other programs take 0.99. Default: they are not cut')
            [CompletionResult]::new('--min-diff', '--min-diff', [CompletionResultType]::ParameterName, 'A text encoder or denoiser whose largest difference is not above this counts as untrained. Default: 1e-4')
            [CompletionResult]::new('--dtype', '--dtype', [CompletionResultType]::ParameterName, 'Element type. Default: f16, or that of the DyLoRA')
            [CompletionResult]::new('--color', '--color', [CompletionResultType]::ParameterName, 'When to use colours')
            [CompletionResult]::new('--force', '--force', [CompletionResultType]::ParameterName, 'Replace what is there; never a file that is read')
            [CompletionResult]::new('--embedders', '--embedders', [CompletionResultType]::ParameterName, 'Transformers: also the embedders before the blocks, and SD3''s last layer')
            [CompletionResult]::new('--dylora', '--dylora', [CompletionResultType]::ParameterName, 'The file is a DyLoRA, although its metadata do not say so')
            [CompletionResult]::new('-q', '-q', [CompletionResultType]::ParameterName, 'Print errors and results only')
            [CompletionResult]::new('--quiet', '--quiet', [CompletionResultType]::ParameterName, 'Print errors and results only')
            [CompletionResult]::new('-h', '-h', [CompletionResultType]::ParameterName, 'Print help (see more with ''--help'')')
            [CompletionResult]::new('--help', '--help', [CompletionResultType]::ParameterName, 'Print help (see more with ''--help'')')
            break
        }
        'pipe;convert' {
            [CompletionResult]::new('-o', '-o', [CompletionResultType]::ParameterName, 'File or folder to write')
            [CompletionResult]::new('--output', '--output', [CompletionResultType]::ParameterName, 'File or folder to write')
            [CompletionResult]::new('--format', '--format', [CompletionResultType]::ParameterName, 'Layout of a model, or names of a LoRA. Default: as they are; a `.ckpt` becomes safetensors')
            [CompletionResult]::new('--dtype', '--dtype', [CompletionResultType]::ParameterName, 'Element type. Default: as it is')
            [CompletionResult]::new('--like', '--like', [CompletionResultType]::ParameterName, 'A Diffusers pipeline whose configurations, tokenizers and scheduler a written folder gets')
            [CompletionResult]::new('--for', '--for', [CompletionResultType]::ParameterName, 'The model that an adapter is for, where it is of no public size')
            [CompletionResult]::new('--color', '--color', [CompletionResultType]::ParameterName, 'When to use colours')
            [CompletionResult]::new('--force', '--force', [CompletionResultType]::ParameterName, 'Replace what is there; never a file that is read')
            [CompletionResult]::new('--skip-unknown', '--skip-unknown', [CompletionResultType]::ParameterName, 'Leave out tensors of a model that nothing is known about. Default: they are an error')
            [CompletionResult]::new('-q', '-q', [CompletionResultType]::ParameterName, 'Print errors and results only')
            [CompletionResult]::new('--quiet', '--quiet', [CompletionResultType]::ParameterName, 'Print errors and results only')
            [CompletionResult]::new('-h', '-h', [CompletionResultType]::ParameterName, 'Print help (see more with ''--help'')')
            [CompletionResult]::new('--help', '--help', [CompletionResultType]::ParameterName, 'Print help (see more with ''--help'')')
            break
        }
        'pipe;resize' {
            [CompletionResult]::new('-o', '-o', [CompletionResultType]::ParameterName, 'File or folder to write')
            [CompletionResult]::new('--output', '--output', [CompletionResultType]::ParameterName, 'File or folder to write')
            [CompletionResult]::new('--rank', '--rank', [CompletionResultType]::ParameterName, 'Rank; with a dynamic method the largest allowed')
            [CompletionResult]::new('--conv-rank', '--conv-rank', [CompletionResultType]::ParameterName, 'Rank of convolutions larger than 1×1. Default: `--rank`')
            [CompletionResult]::new('--sv-ratio', '--sv-ratio', [CompletionResultType]::ParameterName, 'Keep the singular values of a layer that are above its largest divided by this')
            [CompletionResult]::new('--sv-fro', '--sv-fro', [CompletionResultType]::ParameterName, 'Keep as few singular values as hold this part of a layer''s Frobenius norm, from 0 to 1')
            [CompletionResult]::new('--sv-cumulative', '--sv-cumulative', [CompletionResultType]::ParameterName, 'Keep as few singular values as hold this part of their sum, from 0 to 1')
            [CompletionResult]::new('--dtype', '--dtype', [CompletionResultType]::ParameterName, 'Element type. Default: that of the file')
            [CompletionResult]::new('--color', '--color', [CompletionResultType]::ParameterName, 'When to use colours')
            [CompletionResult]::new('--force', '--force', [CompletionResultType]::ParameterName, 'Replace what is there; never a file that is read')
            [CompletionResult]::new('-q', '-q', [CompletionResultType]::ParameterName, 'Print errors and results only')
            [CompletionResult]::new('--quiet', '--quiet', [CompletionResultType]::ParameterName, 'Print errors and results only')
            [CompletionResult]::new('-h', '-h', [CompletionResultType]::ParameterName, 'Print help (see more with ''--help'')')
            [CompletionResult]::new('--help', '--help', [CompletionResultType]::ParameterName, 'Print help (see more with ''--help'')')
            break
        }
        'pipe;schema' {
            [CompletionResult]::new('-o', '-o', [CompletionResultType]::ParameterName, 'Where to write it, instead of standard output')
            [CompletionResult]::new('--output', '--output', [CompletionResultType]::ParameterName, 'Where to write it, instead of standard output')
            [CompletionResult]::new('--color', '--color', [CompletionResultType]::ParameterName, 'When to use colours')
            [CompletionResult]::new('-q', '-q', [CompletionResultType]::ParameterName, 'Print errors and results only')
            [CompletionResult]::new('--quiet', '--quiet', [CompletionResultType]::ParameterName, 'Print errors and results only')
            [CompletionResult]::new('-h', '-h', [CompletionResultType]::ParameterName, 'Print help')
            [CompletionResult]::new('--help', '--help', [CompletionResultType]::ParameterName, 'Print help')
            break
        }
        'pipe;doctor' {
            [CompletionResult]::new('--format', '--format', [CompletionResultType]::ParameterName, 'How to print it')
            [CompletionResult]::new('--color', '--color', [CompletionResultType]::ParameterName, 'When to use colours')
            [CompletionResult]::new('-q', '-q', [CompletionResultType]::ParameterName, 'Print errors and results only')
            [CompletionResult]::new('--quiet', '--quiet', [CompletionResultType]::ParameterName, 'Print errors and results only')
            [CompletionResult]::new('-h', '-h', [CompletionResultType]::ParameterName, 'Print help (see more with ''--help'')')
            [CompletionResult]::new('--help', '--help', [CompletionResultType]::ParameterName, 'Print help (see more with ''--help'')')
            break
        }
        'pipe;completions' {
            [CompletionResult]::new('--color', '--color', [CompletionResultType]::ParameterName, 'When to use colours')
            [CompletionResult]::new('-q', '-q', [CompletionResultType]::ParameterName, 'Print errors and results only')
            [CompletionResult]::new('--quiet', '--quiet', [CompletionResultType]::ParameterName, 'Print errors and results only')
            [CompletionResult]::new('-h', '-h', [CompletionResultType]::ParameterName, 'Print help (see more with ''--help'')')
            [CompletionResult]::new('--help', '--help', [CompletionResultType]::ParameterName, 'Print help (see more with ''--help'')')
            break
        }
        'pipe;help' {
            [CompletionResult]::new('run', 'run', [CompletionResultType]::ParameterValue, 'Train: check the document, plan it, carry it out')
            [CompletionResult]::new('check', 'check', [CompletionResultType]::ParameterValue, 'Check documents: structure, graph, files, and whether the nodes go together')
            [CompletionResult]::new('plan', 'plan', [CompletionResultType]::ParameterValue, 'Say what a run will need: steps, memory and time of each phase, disk')
            [CompletionResult]::new('graph', 'graph', [CompletionResultType]::ParameterValue, 'Draw the graph of a document')
            [CompletionResult]::new('init', 'init', [CompletionResultType]::ParameterValue, 'Write a pipeline to begin with, its schema, and settings for editors')
            [CompletionResult]::new('migrate', 'migrate', [CompletionResultType]::ParameterValue, 'Turn a set-up of another trainer into a document')
            [CompletionResult]::new('nodes', 'nodes', [CompletionResultType]::ParameterValue, 'List the node types, or show the ports, fields and an example of one')
            [CompletionResult]::new('explain', 'explain', [CompletionResultType]::ParameterValue, 'Explain a code (P0104), a node type (adapter.lora) or a field (adapter.lora.rank, train.steps, rank)')
            [CompletionResult]::new('inspect', 'inspect', [CompletionResultType]::ParameterValue, 'Say what a weight file or a model folder is: architecture, layout, types, size, metadata')
            [CompletionResult]::new('merge', 'merge', [CompletionResultType]::ParameterValue, 'Merge adapters into a model, or several LoRAs into one')
            [CompletionResult]::new('extract', 'extract', [CompletionResultType]::ParameterValue, 'Extract a LoRA from the difference of two models, or a lower rank from a DyLoRA')
            [CompletionResult]::new('convert', 'convert', [CompletionResultType]::ParameterValue, 'Convert a model or an adapter to another layout, other names or another element type')
            [CompletionResult]::new('resize', 'resize', [CompletionResultType]::ParameterValue, 'Change the rank of a LoRA by SVD, to a fixed one or to what each layer needs')
            [CompletionResult]::new('schema', 'schema', [CompletionResultType]::ParameterValue, 'Print the JSON Schema (draft-07) of documents, for editors')
            [CompletionResult]::new('doctor', 'doctor', [CompletionResultType]::ParameterValue, 'Show what this build and this machine have: devices, memory, disk, cache')
            [CompletionResult]::new('completions', 'completions', [CompletionResultType]::ParameterValue, 'Print the completion script of a shell')
            [CompletionResult]::new('help', 'help', [CompletionResultType]::ParameterValue, 'Print this message or the help of the given subcommand(s)')
            break
        }
        'pipe;help;run' {
            break
        }
        'pipe;help;check' {
            break
        }
        'pipe;help;plan' {
            break
        }
        'pipe;help;graph' {
            break
        }
        'pipe;help;init' {
            break
        }
        'pipe;help;migrate' {
            break
        }
        'pipe;help;nodes' {
            break
        }
        'pipe;help;explain' {
            break
        }
        'pipe;help;inspect' {
            break
        }
        'pipe;help;merge' {
            break
        }
        'pipe;help;extract' {
            break
        }
        'pipe;help;convert' {
            break
        }
        'pipe;help;resize' {
            break
        }
        'pipe;help;schema' {
            break
        }
        'pipe;help;doctor' {
            break
        }
        'pipe;help;completions' {
            break
        }
        'pipe;help;help' {
            break
        }
    })

    $completions.Where{ $_.CompletionText -like "$wordToComplete*" } |
        Sort-Object -Property ListItemText
}
