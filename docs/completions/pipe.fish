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
complete -c pipe -n "__fish_pipe_needs_command" -f -a "plan" -d 'Say what a run will need: steps, memory of each phase, disk'
complete -c pipe -n "__fish_pipe_needs_command" -f -a "graph" -d 'Draw the graph of a document'
complete -c pipe -n "__fish_pipe_needs_command" -f -a "init" -d 'Write a pipeline to begin with, its schema, and settings for editors'
complete -c pipe -n "__fish_pipe_needs_command" -f -a "nodes" -d 'List the node types, or show the ports, fields and an example of one'
complete -c pipe -n "__fish_pipe_needs_command" -f -a "explain" -d 'Explain a code (P0104), a node type (adapter.lora) or a field (adapter.lora.rank, train.steps)'
complete -c pipe -n "__fish_pipe_needs_command" -f -a "inspect" -d 'Say what a weight file or a model folder is: architecture, layout, types, size, metadata'
complete -c pipe -n "__fish_pipe_needs_command" -f -a "schema" -d 'Print the JSON Schema (draft-07) of documents, for editors'
complete -c pipe -n "__fish_pipe_needs_command" -f -a "doctor" -d 'Show what this build and this machine have: devices, memory, disk, cache'
complete -c pipe -n "__fish_pipe_needs_command" -f -a "completions" -d 'Print the completion script of a shell'
complete -c pipe -n "__fish_pipe_needs_command" -f -a "generate" -d 'Write or check the files made from the code: schema, reference pages, completions'
complete -c pipe -n "__fish_pipe_needs_command" -f -a "help" -d 'Print this message or the help of the given subcommand(s)'
complete -c pipe -n "__fish_pipe_using_subcommand run" -l set -d 'Sets a field of the document, with the same checking: `--set nodes.adamw.learning_rate=2e-4`' -r
complete -c pipe -n "__fish_pipe_using_subcommand run" -l device -d 'Sets `train.device`: auto, cpu, cuda, wgpu, or one of several as in cuda:1' -r
complete -c pipe -n "__fish_pipe_using_subcommand run" -l steps -d 'Train so many steps: short for `--set train.steps=N`' -r
complete -c pipe -n "__fish_pipe_using_subcommand run" -l output -d 'Folder for the run\'s files, instead of the document\'s' -r -F
complete -c pipe -n "__fish_pipe_using_subcommand run" -l color -d 'When to use colours' -r -f -a "auto\t''
always\t''
never\t''"
complete -c pipe -n "__fish_pipe_using_subcommand run" -l resume -d 'Go on from the last saved state of the run\'s folder'
complete -c pipe -n "__fish_pipe_using_subcommand run" -s q -l quiet -d 'Print errors and results only'
complete -c pipe -n "__fish_pipe_using_subcommand run" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c pipe -n "__fish_pipe_using_subcommand check" -l format -d 'How to print what is found' -r -f -a "human\t'With the lines of the document'
concise\t'One line each'
json\t'A JSON array'
github\t'Workflow commands of GitHub Actions'
sarif\t'SARIF 2.1.0, for code scanning'"
complete -c pipe -n "__fish_pipe_using_subcommand check" -l set -d 'Sets a field of the document, with the same checking: `--set nodes.adamw.learning_rate=2e-4`' -r
complete -c pipe -n "__fish_pipe_using_subcommand check" -l device -d 'Sets `train.device`: auto, cpu, cuda, wgpu, or one of several as in cuda:1' -r
complete -c pipe -n "__fish_pipe_using_subcommand check" -l color -d 'When to use colours' -r -f -a "auto\t''
always\t''
never\t''"
complete -c pipe -n "__fish_pipe_using_subcommand check" -l without-files -d 'Do not ask for the weights and images that the document names: what is there is checked, for what is not a usual size is assumed (a hundred images, the full size of the model\'s family)'
complete -c pipe -n "__fish_pipe_using_subcommand check" -s q -l quiet -d 'Print errors and results only'
complete -c pipe -n "__fish_pipe_using_subcommand check" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c pipe -n "__fish_pipe_using_subcommand plan" -l memory -d 'Memory that the run may take, such as 12GiB' -r
complete -c pipe -n "__fish_pipe_using_subcommand plan" -l format -d 'How to print the plan' -r -f -a "human\t'For people'
json\t'For programs'"
complete -c pipe -n "__fish_pipe_using_subcommand plan" -l set -d 'Sets a field of the document, with the same checking: `--set nodes.adamw.learning_rate=2e-4`' -r
complete -c pipe -n "__fish_pipe_using_subcommand plan" -l device -d 'Sets `train.device`: auto, cpu, cuda, wgpu, or one of several as in cuda:1' -r
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
complete -c pipe -n "__fish_pipe_using_subcommand graph" -l set -d 'Sets a field of the document, with the same checking: `--set nodes.adamw.learning_rate=2e-4`' -r
complete -c pipe -n "__fish_pipe_using_subcommand graph" -l device -d 'Sets `train.device`: auto, cpu, cuda, wgpu, or one of several as in cuda:1' -r
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
complete -c pipe -n "__fish_pipe_using_subcommand generate" -l mode -d 'What to do' -r -f -a "check\t'Fail when a file differs from what would be written'
write\t'Write the files, and remove those no longer made'"
complete -c pipe -n "__fish_pipe_using_subcommand generate" -l root -d 'The root of the repository' -r -F
complete -c pipe -n "__fish_pipe_using_subcommand generate" -l color -d 'When to use colours' -r -f -a "auto\t''
always\t''
never\t''"
complete -c pipe -n "__fish_pipe_using_subcommand generate" -s q -l quiet -d 'Print errors and results only'
complete -c pipe -n "__fish_pipe_using_subcommand generate" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c pipe -n "__fish_pipe_using_subcommand help; and not __fish_seen_subcommand_from run check plan graph init nodes explain inspect schema doctor completions generate help" -f -a "run" -d 'Train: check the document, plan it, carry it out'
complete -c pipe -n "__fish_pipe_using_subcommand help; and not __fish_seen_subcommand_from run check plan graph init nodes explain inspect schema doctor completions generate help" -f -a "check" -d 'Check documents: structure, graph, files, and whether the nodes go together'
complete -c pipe -n "__fish_pipe_using_subcommand help; and not __fish_seen_subcommand_from run check plan graph init nodes explain inspect schema doctor completions generate help" -f -a "plan" -d 'Say what a run will need: steps, memory of each phase, disk'
complete -c pipe -n "__fish_pipe_using_subcommand help; and not __fish_seen_subcommand_from run check plan graph init nodes explain inspect schema doctor completions generate help" -f -a "graph" -d 'Draw the graph of a document'
complete -c pipe -n "__fish_pipe_using_subcommand help; and not __fish_seen_subcommand_from run check plan graph init nodes explain inspect schema doctor completions generate help" -f -a "init" -d 'Write a pipeline to begin with, its schema, and settings for editors'
complete -c pipe -n "__fish_pipe_using_subcommand help; and not __fish_seen_subcommand_from run check plan graph init nodes explain inspect schema doctor completions generate help" -f -a "nodes" -d 'List the node types, or show the ports, fields and an example of one'
complete -c pipe -n "__fish_pipe_using_subcommand help; and not __fish_seen_subcommand_from run check plan graph init nodes explain inspect schema doctor completions generate help" -f -a "explain" -d 'Explain a code (P0104), a node type (adapter.lora) or a field (adapter.lora.rank, train.steps)'
complete -c pipe -n "__fish_pipe_using_subcommand help; and not __fish_seen_subcommand_from run check plan graph init nodes explain inspect schema doctor completions generate help" -f -a "inspect" -d 'Say what a weight file or a model folder is: architecture, layout, types, size, metadata'
complete -c pipe -n "__fish_pipe_using_subcommand help; and not __fish_seen_subcommand_from run check plan graph init nodes explain inspect schema doctor completions generate help" -f -a "schema" -d 'Print the JSON Schema (draft-07) of documents, for editors'
complete -c pipe -n "__fish_pipe_using_subcommand help; and not __fish_seen_subcommand_from run check plan graph init nodes explain inspect schema doctor completions generate help" -f -a "doctor" -d 'Show what this build and this machine have: devices, memory, disk, cache'
complete -c pipe -n "__fish_pipe_using_subcommand help; and not __fish_seen_subcommand_from run check plan graph init nodes explain inspect schema doctor completions generate help" -f -a "completions" -d 'Print the completion script of a shell'
complete -c pipe -n "__fish_pipe_using_subcommand help; and not __fish_seen_subcommand_from run check plan graph init nodes explain inspect schema doctor completions generate help" -f -a "generate" -d 'Write or check the files made from the code: schema, reference pages, completions'
complete -c pipe -n "__fish_pipe_using_subcommand help; and not __fish_seen_subcommand_from run check plan graph init nodes explain inspect schema doctor completions generate help" -f -a "help" -d 'Print this message or the help of the given subcommand(s)'
