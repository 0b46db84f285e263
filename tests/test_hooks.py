"""Hooks: they see every launch, however it is made, with the plans under them; without one a launch costs as before."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest

import trlaunch
from tests.corpus import find
from tests.launcher import compile_c
from tests.test_launch_instructions import SCRIPT, folder, instructions  # noqa: F401  (a fixture)
from tests.test_launching import SETUP, mode  # noqa: F401  (a fixture)
from trlaunch import ArgumentError, Kernel, TrlaunchError, hooks

N = 1024


@pytest.fixture
def kernel():
    return Kernel.from_file(find("3.6.0", "cuda:80", "add_kernel").path("ptx"), device="emulator")


@pytest.fixture
def arrays():
    return np.arange(N, dtype=np.float32), np.ones(N, np.float32), np.zeros(N, np.float32)


def test_a_hook_sees_a_launch(kernel, arrays):
    seen = []
    x, y, out = arrays

    def before(launch):
        assert not out.any()
        seen.append((launch.name, launch.grid, launch.stream, str(launch.device), launch.metadata.num_warps))
        assert list(launch.arguments) == ["x_ptr", "y_ptr", "out_ptr", "n_elements"]
        assert launch.arguments["out_ptr"] is out
        assert launch.arguments["n_elements"] == N

    def after(launch):
        assert np.array_equal(out, x + y)
        seen.append(launch.error)

    with hooks.before(before), hooks.after(after):
        kernel.launch((1,), x, y, out, n_elements=N)
    assert seen == [("add_kernel", (1,), 0, "emulator", 4), None]
    kernel.launch((1,), x, y, out, N)
    assert len(seen) == 2


def test_the_order_is_a_stack_and_errors_pass_through(kernel, arrays):
    said = []
    with (
        hooks.before(lambda _: said.append("a")), hooks.after(lambda _: said.append("A")),
        hooks.before(lambda _: said.append("b")), hooks.after(lambda launch: said.append(type(launch.error).__name__)),
        pytest.raises(ArgumentError, match="takes 4 arguments"),
    ):  # fmt: skip
        kernel.launch(1, *arrays)
    assert said == ["a", "b", "ArgumentError", "A"]


def test_what_a_hook_raises_reaches_the_caller_and_nothing_is_launched(kernel, arrays):
    def refuse(launch):
        raise LookupError(launch.name)

    ended = []
    with (
        pytest.raises(LookupError, match="add_kernel"),
        hooks.before(refuse),
        hooks.after(lambda launch: ended.append(launch.error)),
    ):
        kernel.launch(1, *arrays, N)
    assert isinstance(ended[0], LookupError)
    assert not arrays[2].any()


def test_every_hook_behind_a_launch_runs_and_the_first_error_goes_up(kernel, arrays):
    said = []

    def fails(text, error=LookupError):
        def hook(_):
            said.append(text)
            raise error(text)

        return hook

    with hooks.after(lambda _: said.append("last")), hooks.after(fails("second")), hooks.after(fails("first")):
        with pytest.raises(LookupError, match="first") as found:
            kernel.launch(1, *arrays, N)
        assert said == ["first", "second", "last"]
        assert [note.partition("after")[2] for note in found.value.__notes__] == [
            " the launch raised, too: LookupError('second')"
        ]
        with pytest.raises(ArgumentError, match="takes 4 arguments") as found:
            kernel.launch(1, *arrays)
        assert len(found.value.__notes__) == 2
        with hooks.after(lambda launch: said.append(launch.error)), hooks.before(fails("before", RuntimeError)):
            with pytest.raises(RuntimeError, match="before"):
                kernel.launch(1, *arrays, N)
            assert isinstance(said[-4], RuntimeError)
        with hooks.after(fails("interrupted", KeyboardInterrupt)), pytest.raises(KeyboardInterrupt):
            kernel.launch(1, *arrays)
    assert said[-4:] == ["interrupted", "first", "second", "last"]


def test_a_hook_behind_a_launch_may_raise_the_launch_s_error_again(kernel, arrays):
    def again(launch):
        raise launch.error

    with hooks.after(again), pytest.raises(ArgumentError) as found:
        kernel.launch(1, *arrays)
    assert not hasattr(found.value, "__notes__")


def test_a_hook_before_a_launch_sees_unchecked_arguments(kernel, arrays):
    seen = []
    with hooks.before(lambda launch: seen.append(dict(launch.arguments))):
        with pytest.raises(ArgumentError, match="n_elements"):
            kernel.launch(1, *arrays)
        with pytest.raises(ArgumentError):
            kernel.launch(1, *arrays, N, 7)
    assert [list(arguments)[3:] for arguments in seen] == [[], ["n_elements", "arg4"]]
    with hooks.before(lambda launch: launch.arguments["n_elements"]), pytest.raises(KeyError):
        kernel.launch(1, *arrays)


def test_hooks_are_added_once_and_removed_by_name():
    def hook(launch):
        raise AssertionError(launch)

    hooks.before.add(hook)
    hooks.before.add(hook)
    assert list(hooks.before) == [hook]
    assert "Check, pack and launch" in (Kernel.launch.__doc__ or "")
    hooks.before.remove(hook)
    assert len(hooks.before) == len(hooks.after) == 0
    with pytest.raises(ArgumentError, match="is not among the hooks before launches"):
        hooks.before.remove(hook)
    with pytest.raises(ArgumentError, match="a hook is a function of a launch, found 3"):
        hooks.after.add(3)


def test_a_hook_stays_until_the_last_with_of_it_ends(kernel, arrays):
    seen = []
    with hooks.before(seen.append):
        with hooks.before(seen.append):
            kernel.launch(1, *arrays, N)
        kernel.launch(1, *arrays, N)
    assert (len(seen), len(hooks.before)) == (2, 0)
    hooks.before.add(seen.append)
    with hooks.before(seen.append):
        hooks.before.add(seen.append)
    assert len(hooks.before) == 1
    hooks.before.remove(seen.append)
    with hooks.before(seen.append):
        hooks.before.add(seen.append)
    assert list(hooks.before) == [seen.append]
    with hooks.before(seen.append):
        hooks.before.remove(seen.append)
        assert len(hooks.before) == 0
    assert len(hooks.before) == 0


def test_threads_have_the_same_hook_side_by_side(kernel, arrays):
    seen, failures = [], []
    meet = threading.Barrier(2)

    def work(first):
        try:
            for _ in range(20):
                with hooks.after(seen.append):
                    meet.wait()
                    if first:
                        kernel.launch(1, *arrays, N)
                    meet.wait()
                    if not first:  # the other one leaves meanwhile
                        failures.extend([] if seen.append in list(hooks.after) else ["gone"])
                meet.wait()
        except BaseException as error:
            failures.append(error)
            meet.abort()
            raise

    threads = [threading.Thread(target=work, args=(first,)) for first in (True, False)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures
    assert (len(seen), len(hooks.after)) == (20, 0)


def test_arguments_whose_names_are_not_known_are_numbered(tmp_path, arrays):
    case = find("3.0.0", "cuda:80", "add_kernel")
    unnamed = Kernel.from_file(case.path("ptx"), device="emulator")
    found = []
    with hooks.before(lambda launch: found.append(launch.arguments)):
        unnamed.launch(1, *arrays, N)
    assert list(found[0]) == ["arg0", "arg1", "arg2", "arg3"]


def test_threads_launch_while_hooks_come_and_go(kernel, arrays):
    x, y, _ = arrays
    failures = []
    stop = threading.Event()

    def work():
        out = np.zeros(N, np.float32)
        bound = kernel.bind(grid=1)
        while not stop.is_set():
            bound(x, y, out, N)
            if not np.array_equal(out, x + y):
                failures.append(out)

    threads = [threading.Thread(target=work) for _ in range(3)]
    for thread in threads:
        thread.start()
    count = 0

    def hook(_):
        nonlocal count
        count += 1

    for _ in range(30):
        with hooks.before(hook):
            kernel.launch(1, x, y, np.zeros(N, np.float32), N)
    stop.set()
    for thread in threads:
        thread.join()
    assert not failures
    assert count >= 30


SCRIPT_OF_LAUNCHES = """
from trlaunch import hooks
from trlaunch.kernel import Kernel as K

case = find("3.6.0", "cuda:90", "add_kernel")
values = [Pointer(BASE), Pointer(BASE + 4096), Pointer(BASE + 8192), 32]
anywhere, fixed = (Kernel.from_file(case.path("cubin"), **d) for d in ({}, {"device": "cuda:0"}))
primary(0)
seen = []
def hook(launch):
    seen.append([launch.name, list(launch.grid)])
early = {k: k.bind(grid=(3,)) for k in (anywhere, fixed)}
captured = {k: k.launch for k in (anywhere, fixed)}
def everything(label):
    for k in (anywhere, fixed):
        captured[k]((9,), *values)
        k.launch((1,), *values, device=device)
        k.launch((2,), *values, device=device)
        early[k](*values)
        k.bind(grid=(4,))(*values)
        k[(5,)](*values)
        k.bind(grid=(6,), device=device)(*values)
    for bound in late:
        bound(*values)
    result.append([label, explained, len(seen)])
device, late, result = "cuda:0", [], []
everything("learning")
everything("before")
with hooks.before(hook):
    everything("hooked")
    late = [k.bind(grid=(7,)) for k in (anywhere, fixed)]
    everything("again")
    new = Kernel.from_file(case.path("cubin"), device="cuda:0")
    fresh = new.bind(grid=(8,))
    fresh(*values)
    fresh(*values)
    result.append(["new", explained, len(seen)])
everything("after")
fresh(*values)
result.append(["at last", explained, len(seen)])
print(json.dumps([launching.MODE, result]))
"""


def test_every_way_to_launch_passes_the_hooks_and_keeps_its_plan(fakecuda, mode):  # noqa: F811
    script = mode.prefix + SETUP + SCRIPT_OF_LAUNCHES
    recorded = fakecuda.run(script, devices=(90,), env=mode.env)
    found_mode, result = recorded.json()
    assert found_mode == mode.name
    explained = {label: n for label, n, _ in result}
    seen = {label: n for label, _, n in result}
    assert (seen["before"], seen["hooked"], seen["again"]) == (0, 14, 14 + 14 + 2)
    assert seen["new"] == seen["again"] + 2
    assert seen["after"] == seen["at last"] == seen["new"]
    without = explained["before"] - explained["learning"]
    # Under the hooks launches go by their plans; what device= was is learned anew, once for each of the two kernels.
    assert explained["hooked"] - explained["before"] <= without + 2
    assert explained["again"] - explained["hooked"] <= without
    assert explained["after"] - explained["new"] <= without + 2
    assert explained["at last"] == explained["after"]
    launches = recorded.of("cuLaunchKernelEx")
    assert len(launches) == 5 * 14 + 2 + 2 + 2 + 1
    assert {launch.status for launch in launches} == {0}


def test_without_hooks_a_launch_costs_the_instructions_it_did(folder, tmp_path):  # noqa: F811
    switch = Path(trlaunch.__file__).with_name("hook_switch.py")
    cycle = f"""
import importlib.util
spec = importlib.util.spec_from_file_location("hook_switch", {str(switch)!r})
switch = importlib.util.module_from_spec(spec)
spec.loader.exec_module(switch)
class Loaded:
    plan, device = kernel.plan, None
kernel._loaded, kernel._given_device = {{None: Loaded}}, None
fixed = kernel._launches.fixed
switch.register(kernel, n.Launches, fixed)
switch._fill(kernel._launches, kernel)
seen = []
def explain(self, *given):
    seen.append(given)
Kernel.launch = n.Method(explain)
kernel.launch((1,), *arguments)
assert len(seen) == 0
switch.switch_on(print)
kernel.launch((1,), *arguments)
assert len(seen) == 1
switch.switch_off()
for _ in range(count):"""
    script = SCRIPT.replace(
        "        self._launches = n.Launches(False)",
        "        self.plan = plan\n        self._launches = n.Launches(False)",
    )
    assert "for _ in range(count):" in script
    for name in ("driver.so", *(p.name for p in folder.glob("_launcher*"))):
        (tmp_path / name).symlink_to(folder / name)
    (tmp_path / "script.py").write_text(script.replace("for _ in range(count):", cycle.lstrip("\n")))
    assert instructions(tmp_path, "arrays 5") == pytest.approx(instructions(folder, "arrays 5"), rel=0.01)


# --- NVTX ------------------------------------------------------------------------------------------------------------

INJECTION = r"""
/* A tool as NVTX loads it: it writes each range of a domain to a file. Numbers and layouts are those of NVTX 3. */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { CALLBACKS = 1, CORE2 = 5, PUSH = 4, POP = 5, REGISTER = 10, CREATE = 12 };
enum { ASCII = 1, REGISTERED = 3 };
typedef struct {
    uint16_t version, size;
    uint32_t category, color_type, color, payload_type, reserved;
    uint64_t payload;
    uint32_t message_type;
    union { const char *ascii; const void *registered; } message;
} Attributes;
typedef struct { size_t size; int (*table)(int module, void ****table, unsigned *count); } Callbacks;

static void say(const char *what, const char *text) {
    FILE *file = fopen(getenv("FAKENVTX_LOG"), "a");
    fprintf(file, "%s %s\n", what, text);
    fclose(file);
}
static int push(void *domain, const Attributes *a) {
    const char *name = a->message_type == REGISTERED ? a->message.registered : "?";
    char text[200];
    if (a->message_type == ASCII) name = a->message.ascii;
    snprintf(text, sizeof text, "%s %s", (const char *)domain, name);
    say("push", text);
    return 0;
}
static int pop(void *domain) { say("pop", domain); return 0; }
static void *registered(void *domain, const char *text) { (void)domain; return strdup(text); }
static void *create(const char *name) { return strdup(name); }

int InitializeInjectionNvtx2(const void *(*export)(uint32_t)) {
    const Callbacks *callbacks = export(CALLBACKS);
    void ***table;
    unsigned count;
    if (!callbacks || !callbacks->table(CORE2, &table, &count) || count <= CREATE) return 0;
    *table[PUSH] = (void *)push;
    *table[POP] = (void *)pop;
    *table[REGISTER] = (void *)registered;
    *table[CREATE] = (void *)create;
    return 1;
}
"""

RANGES = """
import numpy as np
from tests.corpus import find
from trlaunch import Kernel, hooks
kernel = Kernel.from_file(find("3.6.0", "cuda:80", "add_kernel").path("ptx"), device="emulator")
x = np.ones(1024, np.float32)
with hooks.nvtx(), hooks.before(lambda launch: print(launch.name)):
    kernel.launch(1, x, x, x, 1024)
    kernel.bind(grid=1)(x, x, x, 1024)
    try:
        kernel.launch(1, x)
    except TypeError:
        pass
kernel.launch(1, x, x, x, 1024)
"""


def python(code, **env):
    root = Path(trlaunch.__file__).parents[1]
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=root, env=os.environ | {"PYTHONPATH": str(root)} | env,
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_launches_are_nvtx_ranges(tmp_path):
    (tmp_path / "tool.c").write_text(INJECTION)
    compile_c(tmp_path / "tool.c", tmp_path / "tool.so", "-D_GNU_SOURCE")
    log = tmp_path / "ranges"
    python(RANGES, NVTX_INJECTION64_PATH=str(tmp_path / "tool.so"), FAKENVTX_LOG=str(log))
    assert log.read_text().splitlines() == ["push trlaunch add_kernel", "pop trlaunch"] * 3


RAISING = """
import numpy as np
from tests.corpus import find
from trlaunch import Kernel, hooks
kernel = Kernel.from_file(find("3.6.0", "cuda:80", "add_kernel").path("ptx"), device="emulator")
x = np.ones(1024, np.float32)
def fail(launch):
    raise LookupError(launch.name)
with hooks.nvtx(), hooks.after(fail):
    for count in ((1024,), ()):
        try:
            kernel.launch(1, x, x, x, *count)
        except (LookupError, TypeError) as error:
            print(type(error).__name__)
"""


def test_a_range_ends_though_a_hook_raised(tmp_path):
    (tmp_path / "tool.c").write_text(INJECTION)
    compile_c(tmp_path / "tool.c", tmp_path / "tool.so", "-D_GNU_SOURCE")
    log = tmp_path / "ranges"
    said = python(RAISING, NVTX_INJECTION64_PATH=str(tmp_path / "tool.so"), FAKENVTX_LOG=str(log))
    assert said == "LookupError\nArgumentError\n"
    assert log.read_text().splitlines() == ["push trlaunch add_kernel", "pop trlaunch"] * 2


def test_without_a_tool_there_are_no_ranges():
    assert python(RANGES) == "add_kernel\n" * 3


def test_nvtx_says_what_it_needs(monkeypatch):
    monkeypatch.setitem(sys.modules, "nvtx", None)
    with pytest.raises(TrlaunchError, match=r"pip install 'trlaunch\[nvtx\]'"):
        hooks.nvtx()
    assert len(hooks.before) == 0


def test_proton_says_that_it_needs_triton(monkeypatch, kernel, arrays):
    for name in ("triton", "triton.compiler", "triton.knobs"):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(trlaunch.errors.LoweringError, match="pip install triton"), hooks.proton():
        kernel.launch(1, *arrays, N)
    assert len(hooks.before) == 0


def test_the_module_is_public_and_imports_no_framework():
    unwanted = "('triton', 'torch', 'nvtx', 'cuda')"
    code = f"import trlaunch, sys; trlaunch.hooks.before; print([m for m in {unwanted} if m in sys.modules])"
    assert python(code).strip() == "[]"
