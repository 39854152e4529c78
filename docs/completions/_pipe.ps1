
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
            [CompletionResult]::new('plan', 'plan', [CompletionResultType]::ParameterValue, 'Say what a run will need: steps, memory of each phase, disk')
            [CompletionResult]::new('graph', 'graph', [CompletionResultType]::ParameterValue, 'Draw the graph of a document')
            [CompletionResult]::new('init', 'init', [CompletionResultType]::ParameterValue, 'Write a pipeline to begin with, its schema, and settings for editors')
            [CompletionResult]::new('nodes', 'nodes', [CompletionResultType]::ParameterValue, 'List the node types, or show the ports, fields and an example of one')
            [CompletionResult]::new('explain', 'explain', [CompletionResultType]::ParameterValue, 'Explain a code (P0104), a node type (adapter.lora) or a field (adapter.lora.rank, train.steps)')
            [CompletionResult]::new('inspect', 'inspect', [CompletionResultType]::ParameterValue, 'Say what a weight file or a model folder is: architecture, layout, types, size, metadata')
            [CompletionResult]::new('schema', 'schema', [CompletionResultType]::ParameterValue, 'Print the JSON Schema (draft-07) of documents, for editors')
            [CompletionResult]::new('doctor', 'doctor', [CompletionResultType]::ParameterValue, 'Show what this build and this machine have: devices, memory, disk, cache')
            [CompletionResult]::new('completions', 'completions', [CompletionResultType]::ParameterValue, 'Print the completion script of a shell')
            [CompletionResult]::new('generate', 'generate', [CompletionResultType]::ParameterValue, 'Write or check the files made from the code: schema, reference pages, completions')
            [CompletionResult]::new('help', 'help', [CompletionResultType]::ParameterValue, 'Print this message or the help of the given subcommand(s)')
            break
        }
        'pipe;run' {
            [CompletionResult]::new('--set', '--set', [CompletionResultType]::ParameterName, 'Sets a field of the document, with the same checking: `--set nodes.adamw.learning_rate=2e-4`')
            [CompletionResult]::new('--device', '--device', [CompletionResultType]::ParameterName, 'Sets `train.device`: auto, cpu, cuda, wgpu, or one of several as in cuda:1')
            [CompletionResult]::new('--steps', '--steps', [CompletionResultType]::ParameterName, 'Train so many steps: short for `--set train.steps=N`')
            [CompletionResult]::new('--output', '--output', [CompletionResultType]::ParameterName, 'Folder for the run''s files, instead of the document''s')
            [CompletionResult]::new('--color', '--color', [CompletionResultType]::ParameterName, 'When to use colours')
            [CompletionResult]::new('--resume', '--resume', [CompletionResultType]::ParameterName, 'Go on from the last saved state of the run''s folder')
            [CompletionResult]::new('-q', '-q', [CompletionResultType]::ParameterName, 'Print errors and results only')
            [CompletionResult]::new('--quiet', '--quiet', [CompletionResultType]::ParameterName, 'Print errors and results only')
            [CompletionResult]::new('-h', '-h', [CompletionResultType]::ParameterName, 'Print help (see more with ''--help'')')
            [CompletionResult]::new('--help', '--help', [CompletionResultType]::ParameterName, 'Print help (see more with ''--help'')')
            break
        }
        'pipe;check' {
            [CompletionResult]::new('--format', '--format', [CompletionResultType]::ParameterName, 'How to print what is found')
            [CompletionResult]::new('--set', '--set', [CompletionResultType]::ParameterName, 'Sets a field of the document, with the same checking: `--set nodes.adamw.learning_rate=2e-4`')
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
            [CompletionResult]::new('--set', '--set', [CompletionResultType]::ParameterName, 'Sets a field of the document, with the same checking: `--set nodes.adamw.learning_rate=2e-4`')
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
            [CompletionResult]::new('--set', '--set', [CompletionResultType]::ParameterName, 'Sets a field of the document, with the same checking: `--set nodes.adamw.learning_rate=2e-4`')
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
        'pipe;generate' {
            [CompletionResult]::new('--mode', '--mode', [CompletionResultType]::ParameterName, 'What to do')
            [CompletionResult]::new('--root', '--root', [CompletionResultType]::ParameterName, 'The root of the repository')
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
            [CompletionResult]::new('plan', 'plan', [CompletionResultType]::ParameterValue, 'Say what a run will need: steps, memory of each phase, disk')
            [CompletionResult]::new('graph', 'graph', [CompletionResultType]::ParameterValue, 'Draw the graph of a document')
            [CompletionResult]::new('init', 'init', [CompletionResultType]::ParameterValue, 'Write a pipeline to begin with, its schema, and settings for editors')
            [CompletionResult]::new('nodes', 'nodes', [CompletionResultType]::ParameterValue, 'List the node types, or show the ports, fields and an example of one')
            [CompletionResult]::new('explain', 'explain', [CompletionResultType]::ParameterValue, 'Explain a code (P0104), a node type (adapter.lora) or a field (adapter.lora.rank, train.steps)')
            [CompletionResult]::new('inspect', 'inspect', [CompletionResultType]::ParameterValue, 'Say what a weight file or a model folder is: architecture, layout, types, size, metadata')
            [CompletionResult]::new('schema', 'schema', [CompletionResultType]::ParameterValue, 'Print the JSON Schema (draft-07) of documents, for editors')
            [CompletionResult]::new('doctor', 'doctor', [CompletionResultType]::ParameterValue, 'Show what this build and this machine have: devices, memory, disk, cache')
            [CompletionResult]::new('completions', 'completions', [CompletionResultType]::ParameterValue, 'Print the completion script of a shell')
            [CompletionResult]::new('generate', 'generate', [CompletionResultType]::ParameterValue, 'Write or check the files made from the code: schema, reference pages, completions')
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
        'pipe;help;nodes' {
            break
        }
        'pipe;help;explain' {
            break
        }
        'pipe;help;inspect' {
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
        'pipe;help;generate' {
            break
        }
        'pipe;help;help' {
            break
        }
    })

    $completions.Where{ $_.CompletionText -like "$wordToComplete*" } |
        Sort-Object -Property ListItemText
}
