"""The languages: what goes into each one's folder, and the README's lines that are typed there."""

import shutil
import sys
from pathlib import Path
from typing import Final

from tests.polyglot.toolchain import README, SOURCES, STUBS, Language, UnavailableError, block, build, section

ADDRESS: Final = "127.0.0.1:7401"
"""Where the pages have the Invoker; the tests have it elsewhere."""


def elsewhere(text: str, said: str, told: str) -> str:
    """Replace, in a program of the docs, what it says by what a test tells it. It must be there once."""
    assert text.count(said) == 1, f"the docs say {said} {text.count(said)} times"
    return text.replace(said, told)


def _copy(language: str, into: Path) -> None:
    shutil.copytree(SOURCES / language, into, dirs_exist_ok=True)


def _write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def _lay_out_go(folder: Path) -> None:
    shutil.rmtree(folder / "stubs", ignore_errors=True)
    _copy("go", folder / "ours")
    hello = elsewhere(block(STUBS, "Go", "go"), f'"{ADDRESS}"', 'os.Getenv("HOLDFAST_INVOKER")')
    _write(folder / "first/main.go", elsewhere(hello, '"log"', '"log"\n\t"os"'))


# The README's lines end in a module of their own, in which the first client is built; ours are then built on
# the versions we have locked.
_GO: Final = f"""
{block(README, "Go", "")}
mkdir -p cmd && cp -r ../../first cmd/hello
{block(STUBS, "Go", "", 0).replace("go run ./cmd/hello", "go build -o ../../programs/ ./cmd/hello")}
cp -r ../../ours/. .
go build -o ../../programs/ ./cmd/session ./cmd/worker
"""


def _lay_out_typescript(folder: Path) -> None:
    _copy("typescript", folder)
    hello = block(STUBS, "TypeScript", "typescript")
    _write(folder / "hello.ts", elsewhere(hello, f'"{ADDRESS}"', "process.env.HOLDFAST_INVOKER!"))


_COMPILE: Final = block(STUBS, "TypeScript", "", 0)
_TYPESCRIPT: Final = f"""
npm ci --ignore-scripts
{block(README, "TypeScript", "")}
{_COMPILE.replace(" && node hello.js", "")}
{_COMPILE.splitlines()[-1].replace("hello.ts && node hello.js", "session.ts")}
git diff --no-index --exit-code package-lock.json {SOURCES / "typescript/package-lock.json"}
"""


def _lay_out_java(folder: Path) -> None:
    _copy("java", folder)
    _write(folder / "pom.xml", block(STUBS, "Java", "xml"))
    hello = elsewhere(
        block(STUBS, "Java", "java"),
        'forAddress("127.0.0.1", 7401)',
        'forTarget(System.getenv("HOLDFAST_INVOKER"))',
    )
    _write(folder / "src/main/java/hello/Hello.java", hello)
    protos = folder / "src/main/proto"
    if not protos.exists():
        protos.symlink_to(folder / "protos")


_JAVA: Final = block(STUBS, "Java", "", 0).splitlines()[0]


def _lay_out_rust(folder: Path) -> None:
    _copy("rust", folder)
    _write(folder / "Cargo.toml", block(STUBS, "Rust", "toml"))
    _write(folder / "build.rs", block(STUBS, "Rust", "rust", 0))
    told = 'format!("http://{}", std::env::var("HOLDFAST_INVOKER")?)'
    hello = elsewhere(block(STUBS, "Rust", "rust", 1), f'"http://{ADDRESS}"', told)
    _write(folder / "src/main.rs", hello)


LANGUAGES: Final = {
    language.name: language
    for language in (
        Language(
            "go",
            ("go",),
            _lay_out_go,
            _GO,
            section(STUBS, "Go"),
            {name: (f"programs/{name}",) for name in ("hello", "session", "worker")},
        ),
        Language(
            "typescript",
            ("node", "npm", "git"),
            _lay_out_typescript,
            _TYPESCRIPT,
            section(STUBS, "TypeScript"),
            {"hello": ("node", "hello.js"), "session": ("node", "session.js")},
        ),
        Language(
            "java",
            ("java", "javac", "mvn"),
            _lay_out_java,
            _JAVA,
            section(STUBS, "Java"),
            {
                "hello": ("bash", "-c", 'exec java -cp "target/classes:$(cat target/classpath)" hello.Hello'),
                "session": (
                    "bash",
                    "-c",
                    'exec java -cp "target/classes:$(cat target/classpath)" session.Session "$@"',
                    "java",
                ),
            },
        ),
        Language(
            "rust",
            ("cargo", "cc"),
            _lay_out_rust,
            "CARGO_PROFILE_DEV_DEBUG=0 cargo build",
            section(STUBS, "Rust"),
            {"hello": ("target/debug/hello",), "session": ("target/debug/session",)},
        ),
    )
}


def main() -> None:
    """Build every language that can be had here, and say so of each; an error in one is this command's."""
    for language in LANGUAGES.values():
        try:
            build(language)
            sys.stdout.write(f"{language.name}: built in .cache/polyglot/{language.name}\n")
        except UnavailableError as reason:
            sys.stdout.write(f"{reason} (optional)\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
