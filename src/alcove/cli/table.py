"""Every command and option of `alcove`."""

from alcove.cli import values
from alcove.cli.grammar import Command, Commands, Option

_ALLOW_ROOT_OWNED = Option("--allow-root-owned", "", "allow read-write mounts of directories that belong to root")
_MOUNT_OPTION = Option(
    "--mount",
    "SRC:DST[:ro|rw|cow]",
    "show the host's SRC at DST inside, read-only unless rw; an empty SRC is a fresh directory; with cow the guest "
    "writes and the host's stays as it is",
    short="-m",
    parse=values.mount,
    many=True,
)

_ALLOW_PACKAGES = Option(
    "--allow-packages",
    "TOOL,…",
    "allow the indexes that pip, npm or apt is configured with on this machine; they are shown first",
    parse=values.words,
    many=True,
)

# What a session is made from
_SESSION = (
    Option("--net", "", "share the host's network; without it a new session has none"),
    Option(
        "--allow",
        "ENTRY",
        "let it reach this and nothing else: a host (HTTP and TLS), *.host, host:port, an address, or @preset",
        many=True,
    ),
    _ALLOW_PACKAGES,
    _MOUNT_OPTION,
    Option("--cpus", "N", "at most N processors", parse=values.count),
    Option("--memory", "SIZE", "at most so much memory: 512M, 2G", parse=values.mebibytes),
    Option("--disk", "SIZE", "at most so much disk for what it writes: 512M, 2G", parse=values.mebibytes),
    Option("--pids", "N", "at most N processes", parse=values.count),
    Option("--open-files", "N", "at most N open files of a process", parse=values.count),
    Option("--idle-timeout", "TIME", "put it to sleep when it was idle for 90, 10m, 2h", parse=values.seconds),
    Option("--id", "ID", "the session's id, else one is made up"),
    Option("--label", "KEY=VALUE", "a label of the session", parse=values.label, many=True),
    Option("--set-id", "", "let the guest make set-id files, as package managers must; excludes rw mounts"),
    _ALLOW_ROOT_OWNED,
    Option("--best-effort", "", "leave out limits that this host cannot enforce; `alcove show` tells which"),
)
# What a new one begins with
_BEGIN = (
    Option("--from", "REF", "begin with the files of a snapshot, by its id or name"),
    Option("--owned", "", "let the guest's root own a copy-on-write view of the host's system (as root only)"),
)

# What a command is run with
_EXEC = (
    Option("--timeout", "TIME", "kill it after 10, 1.5s, 2m; the exit code is then 124", parse=values.seconds),
    Option(
        "--env", "NAME[=VALUE]", "set a variable, or pass on one of yours", short="-e", parse=values.variable, many=True
    ),
    Option("--cwd", "DIR", "start in DIR, relative to /workspace", short="-w"),
    Option("--user", "USER", "run as this user of the session, a name or a uid", short="-u"),
)
_RESULT = (
    Option("--json", "", "print the result as JSON instead of the output"),
    Option("--raw", "", "with --json: the output's bytes too, as base64"),
    Option("--output-limit", "SIZE", "with --json: keep so much of each stream", parse=values.size),
)
_COMMANDS_OF_IT = (
    Option("--timeout", "TIME", "kill any of its commands after so long", parse=values.seconds),
    Option("--user", "USER", "the user of its commands", short="-u"),
)
_JSON = Option("--json", "", "print JSON")
_TARGET = Option("--target", "DIR", "of the copy-on-write mount at DIR, where a session has several")
_ARGV = "COMMAND [ARGUMENT…]"

COMMANDS = Commands(
    [
        Command(
            "run",
            "alcove.cli.run:run",
            "run a command in a session of its own, which then ends",
            argv=_ARGV,
            options=(
                *_SESSION,
                *_BEGIN,
                *_EXEC,
                *_RESULT,
                Option("--keep", "", "keep the session; its id is told on stderr"),
            ),
            about="The exit code is the command's; 128+N: killed by signal N, 124: by its timeout, 125: Alcove failed.",
        ),
        Command(
            "shell",
            "alcove.cli.shell:shell",
            "open a terminal in a session, or in one of its own",
            words=("[ID]",),
            argv="[-- COMMAND [ARGUMENT…]]",
            options=(*_SESSION, *_BEGIN, *_EXEC, Option("--keep", "", "keep the session; its id is told on stderr")),
        ),
        Command(
            "create",
            "alcove.cli.sessions:create",
            "make a session and print its id",
            options=(*_SESSION, *_BEGIN, *_COMMANDS_OF_IT, _JSON),
        ),
        Command(
            "exec",
            "alcove.cli.run:exec_",
            "run a command in a session",
            words=("ID",),
            argv=_ARGV,
            options=(*_EXEC, *_RESULT),
            about="The exit code is the command's, as in `alcove run`.",
        ),
        Command(
            "ls",
            "alcove.cli.sessions:ls",
            "list the sessions",
            options=(
                Option("--all", "", "those that ended within a day, too", short="-a"),
                Option("--label", "KEY=VALUE", "only those with this label", parse=values.label, many=True),
                Option("--quiet", "", "ids only", short="-q"),
                _JSON,
            ),
        ),
        Command("show", "alcove.cli.sessions:show", "show what a session is", words=("ID",), options=(_JSON,)),
        Command(
            "mount",
            "alcove.cli.sessions:mount",
            "show a host directory in a live session",
            words=("ID", "SRC:DST[:ro|rw|cow]"),
            options=(_ALLOW_ROOT_OWNED, _JSON),
        ),
        Command(
            "suspend",
            "alcove.cli.sessions:suspend",
            "put a session to sleep until it is used",
            words=("ID",),
            options=(_JSON,),
            about="Without processes nothing of it stays in memory; else they are frozen. The next command wakes it.",
        ),
        Command("resume", "alcove.cli.sessions:resume", "wake a session that sleeps", words=("ID",), options=(_JSON,)),
        Command(
            "diff",
            "alcove.cli.project:diff",
            "tell what a session changed of its copy-on-write mounts",
            words=("ID", "[PATH…]"),
            options=(
                Option("--patch", "", "the text of the changes, for `git apply` or `patch -p1`", short="-p"),
                _TARGET,
                _JSON,
            ),
            about="A PATH is relative to the mount, or begins with the place where it is mounted.",
        ),
        Command(
            "apply",
            "alcove.cli.project:apply",
            "write those changes to the host's directory",
            words=("ID", "[PATH…]"),
            options=(_TARGET, _JSON),
            about="Where one of them changed on the host meanwhile, nothing is written. What git on the host would run "
            "is written only where PATH names it. The exit code is 1 where something was not written.",
        ),
        Command(
            "discard",
            "alcove.cli.project:discard",
            "forget those changes",
            words=("ID",),
            options=(_TARGET,),
        ),
        Command(
            "net",
            "alcove.cli.net:net",
            "show or change a session's network",
            words=("ID", "[none|host]"),
            options=(_JSON,),
        ),
        Command("net show", "alcove.cli.net:show", "show what a session may reach", words=("ID",), options=(_JSON,)),
        Command(
            "net allow",
            "alcove.cli.net:allow",
            "let a live session reach more",
            words=("ID", "[ENTRY…]"),
            options=(_ALLOW_PACKAGES, _JSON),
            about="An entry is one of --allow in `alcove run`. It holds at once, for running commands too.",
        ),
        Command(
            "net deny",
            "alcove.cli.net:deny",
            "let a live session reach less",
            words=("ID", "ENTRY…"),
            options=(_JSON,),
            about="An entry is one that `alcove net show` lists. Connections that it allowed break off.",
        ),
        Command(
            "net log",
            "alcove.cli.net:log",
            "show what a session tried to reach, and what became of it",
            words=("ID",),
            options=(
                Option("--follow", "", "go on with what it tries, until it ends", short="-f"),
                Option("--json", "", "print JSON, one record a line"),
            ),
        ),
        Command(
            "export",
            "alcove.cli.transfer:export",
            "write a snapshot to a file or a pipe, as an OCI image layout",
            words=("REF", "[FILE|-]"),
            options=(
                Option("--compression", "KIND", "zstd (the default), gzip or none", parse=values.compression),
                Option("--flat", "", "one layer of all, without the bytes of what was deleted or changed later"),
                _JSON,
            ),
            about="FILE is there whole at the end, or not at all. Without it, or with -, the archive goes to stdout.",
        ),
        Command(
            "import",
            "alcove.cli.transfer:import_",
            "make a snapshot of what `alcove export` wrote, here or elsewhere",
            words=("[FILE|-]",),
            options=(
                Option("--name", "NAME", "the snapshot's name, else the one that it had"),
                Option("--set-id", "", "take set-id files in, which are refused otherwise"),
                Option("--max-size", "SIZE", "refuse what unpacks to more (64G)", parse=values.size),
                Option("--max-entries", "N", "refuse more files and directories (500000)", parse=values.count),
                _JSON,
            ),
            about="Without FILE, or with -, the archive comes from stdin. Prints the snapshot's id.",
        ),
        Command(
            "rm",
            "alcove.cli.sessions:rm",
            "end sessions and all that is in them",
            words=("[ID…]",),
            options=(Option("--all", "", "every session", short="-a"),),
        ),
        Command(
            "snapshot",
            "alcove.cli.snapshots:take",
            "keep what a session has changed so far, and print the snapshot's id",
            words=("ID",),
            options=(Option("--name", "NAME", "a name for it, to be used in place of the id"), _JSON),
            about="Its workspace, /tmp, outputs, and a system that it owns; no mounts. Use it by --from.",
        ),
        Command(
            "snapshots",
            "alcove.cli.snapshots:ls",
            "list the snapshots",
            options=(Option("--quiet", "", "ids only", short="-q"), _JSON),
        ),
        Command(
            "snapshots show",
            "alcove.cli.snapshots:show",
            "show what a snapshot is, and who lives on it",
            words=("REF",),
            options=(_JSON,),
        ),
        Command(
            "snapshots name",
            "alcove.cli.snapshots:name",
            "give a snapshot a name, another, or none",
            words=("REF", "[NAME]"),
            options=(Option("--none", "", "take its name away"), _JSON),
        ),
        Command(
            "snapshots rm",
            "alcove.cli.snapshots:rm",
            "delete snapshots; sessions that were made from them live on",
            words=("REF…",),
        ),
        Command(
            "fork",
            "alcove.cli.fork:fork",
            "make a session that begins with the files of another, and print its id",
            words=("ID",),
            options=(
                *_SESSION,
                Option("--no-net", "", "no network, whatever the session has"),
                Option("--no-mounts", "", "none of the session's mounts"),
                *_COMMANDS_OF_IT,
                _JSON,
            ),
            about="It is made as the session was; an option that is given takes the place of what the session has.",
        ),
        Command(
            "tree",
            "alcove.cli.tree:tree",
            "show sessions and snapshots below what they were made from",
            options=(_JSON,),
        ),
        Command("df", "alcove.cli.df:df", "show what takes the disk", options=(_JSON,)),
        Command(
            "doctor",
            "alcove.cli.doctor:doctor",
            "tell what this host can enforce, or what is wrong with the store",
            options=(
                Option("--store", "", "check the store instead; the exit code is 1 when something was found"),
                Option("--repair", "", "with --store: put right what can be; what is nobody's goes to lost/"),
                Option("--verify", "", "with --store: read every layer, and find what has changed in it"),
                _JSON,
            ),
        ),
        Command(
            "completion",
            "alcove.cli.completion:completion",
            "print a shell's completion script",
            words=("bash|zsh|fish",),
            about='For example, in ~/.bashrc: eval "$(alcove completion bash)"',
        ),
        Command("version", "alcove.cli.help:version", "print the version"),
        Command("help", "alcove.cli.help:overview", "show this help", hidden=True),
        Command("__complete", "alcove.cli.completion:complete", "", argv="[-- WORD…]", hidden=True),
    ]
)
