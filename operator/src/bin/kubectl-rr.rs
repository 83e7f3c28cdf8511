//! `kubectl rr …`: the operator's plugin for kubectl.

fn main() -> std::process::ExitCode {
    operator::plugin::main()
}
