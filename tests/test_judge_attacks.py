"""Submissions that cheat: none gains a point, none sees or changes what it should not, and the honest answer
beside the attack keeps its points."""

from __future__ import annotations

import json
import os
import socket
import sys
import threading
import time
from pathlib import Path

import nbformat
import pytest
from judge_cases import ROOT, graded, hand_in, no_sandbox, open_judge, pair

from autograde_tests.judge import notebook, parts
from autograde_tests.judge.preprocessor import put
from autograde_tests.sheets import exercise, exercises

WRONG = "\ndef rate(labels, observed):\n    return labels.mean(dim=0)\n"
SECRET = "the_instructors_password"


@pytest.fixture(scope="module")
def judge():
    os.environ["MTLKIT_TEST_SECRET"] = SECRET
    with open_judge(seconds=2.0) as judge:
        yield judge
    del os.environ["MTLKIT_TEST_SECRET"]


def attacked(judge, answer: str, **more) -> dict:
    """The results of 00_start with this text as the answer to 0.1 and the right answer to 0.2."""
    return graded(judge, hand_in(cells={"answer_0_1": answer, **more.pop("cells", {})}, **more))


def held(found: dict) -> None:
    assert (found["0.1"].points, found["0.1"].passed) == (0, False), found["0.1"]
    assert found["0.2"].points == 5, found["0.2"]


def right_if(condition: str, before: str = "") -> str:
    """An answer that is right where it sees what it must not: its points show the leak."""
    return f"""
import os, sys, glob, pathlib
{before}
def found():
    try:
        return bool({condition})
    except BaseException:
        return False
LEAK = found()
def rate(labels, observed):
    if LEAK or found():
        return (labels * observed).sum(dim=0) / observed.sum(dim=0)
    return labels.mean(dim=0)
"""


# --- tampering: with the comparison, the check, Python and the notebook ------------------------------------

TAMPER = {
    "torch's comparisons": "import torch\ntorch.allclose = torch.equal = torch.isclose = lambda *a: True",
    "numpy's comparisons": "import numpy as np\nnp.isclose = np.allclose = np.equal = lambda *a, **k: True",
    "assert_close": "import torch\ntorch.testing.assert_close = lambda *a, **k: None",
    "check itself": "import autograde_tests\nautograde_tests.check = lambda i, f: print(f'[{i}] ✓ fine')",
    "a check of one's own": "def check(i, f):\n    print(f'[{i}] ✓ fine')\n    return 5",
    "the verdict": """
import sys
class Yes:
    passed, lines, mistake = True, ("[0.1] ✓",), ""
for module in list(sys.modules.values()):
    if getattr(module, "__name__", "").startswith("autograde_tests"):
        for name in ("judge", "verdict", "decide", "_difference", "_same"):
            setattr(module, name, lambda *a, **k: Yes())
""",
    "the probe": """
from autograde_tests import probe
probe.ask = lambda *a, **k: [probe.Reply()]
""",
    "the probe, with many empty replies": """
from autograde_tests import probe
probe.ask = lambda answer, how, trials, *a, **k: [probe.Reply() for _ in trials]
""",
    "the probe, with no reply": "from autograde_tests import probe\nprobe.ask = lambda *a, **k: []",
    "the probe, with a kind of failure that passes": """
from autograde_tests import probe
probe.ask = lambda answer, how, trials, *a, **k: [probe.Reply(failure="passed", text="✓") for _ in trials]
""",
    "sys.modules": """
import sys, types
fake = types.ModuleType("autograde_tests")
fake.check = fake.verdict = lambda *a: True
for name in [n for n in sys.modules if n.startswith("autograde_tests")]:
    sys.modules[name] = fake
""",
    "an import hook": """
import sys
class Hook:
    def find_spec(self, name, path=None, target=None):
        sys.modules[name] = sys
sys.meta_path.insert(0, Hook())
""",
    "builtins": "import builtins\nbuiltins.isinstance = builtins.all = builtins.any = lambda *a: True",
    "exec and compile": "import builtins\nbuiltins.exec = builtins.compile = lambda *a, **k: None",
    "IPython's events": """
ip = get_ipython()
ip.events.register("post_run_cell", lambda result: setattr(result, "result", 5))
""",
    "IPython's transformers": """
import ast
class T(ast.NodeTransformer):
    def visit_Module(self, node):
        return ast.parse("5")
get_ipython().ast_transformers.append(T())
get_ipython().input_transformers_cleanup.append(lambda lines: ["5"])
""",
    "IPython's display": """
get_ipython().display_formatter.formatters["text/plain"].for_type(object, lambda *a: "5")
""",
    "the kernel": "get_ipython().kernel.do_execute = lambda *a, **k: {'status': 'ok'}",
    "equality of tensors": "import torch\ntorch.Tensor.__eq__ = torch.Tensor.__ne__ = lambda *a: True",
    "Tensor.numpy": "import numpy, torch\ntorch.Tensor.numpy = lambda self, **k: numpy.zeros(self.shape)",
    "autograd": "import torch\ntorch.autograd.grad = lambda out, ins, **k: [i * 0 for i in ins]",
    "the profiler that sees delegation": "import sys\nsys.setprofile(None)\nsys.setprofile = lambda f: None",
    "a trace function": """
import sys
def trace(frame, event, arg):
    frame.f_locals.update(passed=True, failure="")
    return trace
sys.settrace(trace)
""",
    "points printed at the end": """
import atexit
atexit.register(lambda: print("[0.1] ✓ values are right\\n5"))
print("[0.1] ✓ the positive rate: values are right")
""",
    "an exit that looks well": "import sys\nsys.exit(0)",
    "an exit that is well": "import os\nos._exit(0)",
    "a CheckFailed that passes": "class CheckFailed(Exception):\n    pass\nraise CheckFailed('✓')",
    "signals": "import signal\nfor s in range(1, 32):\n    try: signal.signal(s, signal.SIG_IGN)\n"
    "    except (OSError, ValueError): pass",
}


@pytest.mark.parametrize("code", TAMPER.values(), ids=TAMPER)
def test_tampering_gains_nothing(judge, code):
    held(attacked(judge, code + WRONG))


# --- results that lie --------------------------------------------------------------------------------------

LIES = {
    "a tensor that equals all": """
class Same(torch.Tensor):
    __eq__ = __ne__ = allclose = isclose = equal = lambda *a, **k: True
    @classmethod
    def __torch_function__(cls, f, types, args=(), kwargs=None):
        if f in (torch.equal, torch.allclose): return True
        return super().__torch_function__(f, types, args, kwargs or {})
def rate(labels, observed):
    return labels.mean(dim=0).as_subclass(Same)
""",
    "a number that equals all": """
class One(float):
    __eq__ = __ge__ = __le__ = lambda *a: True
    __hash__ = None
def rate(labels, observed):
    return One(0.5)
""",
    "a mock": "from unittest.mock import MagicMock\nrate = MagicMock()",
    "an object with an array": """
class A:
    def __array__(self, *a, **k): return self
    def __eq__(self, other): return True
def rate(labels, observed): return A()
""",
    "NaN": "def rate(labels, observed): return labels.mean(dim=0) * float('nan')",
    "infinity": "def rate(labels, observed): return labels.mean(dim=0) / 0",
    "nothing": "def rate(labels, observed): return {}",
    "a table in itself": "def rate(labels, observed):\n    d = {}\n    d['out'] = d\n    return d",
    "too much": "def rate(labels, observed): return torch.zeros(2**28)",
    "a million names": "def rate(labels, observed): return {str(i): 1 for i in range(10**6)}",
    "complex numbers": "def rate(labels, observed): return labels.mean(dim=0) + 1j",
    "no end": "def rate(labels, observed):\n    while True: yield labels",
    "an object that pickles into code": """
class P:
    def __reduce__(self): return (exec, ("import os; os.system('touch /tmp/pwned')",))
def rate(labels, observed):
    import numpy
    return numpy.array([P()], dtype=object)
""",
}


@pytest.mark.parametrize("code", LIES.values(), ids=LIES)
def test_results_that_lie_gain_nothing(judge, code):
    held(attacked(judge, code))


def test_trials_learnt_by_heart_are_worth_nothing(judge):
    """The sheets are public: with a known seed their trials could be looked up."""
    item, table = exercise("0.1"), {}
    for seed in range(3):
        for trial in item.trials(seed)[1:]:
            labels, observed = trial.inputs["labels"], trial.inputs["observed"]
            table[str(labels.tolist())] = ((labels * observed).sum(0) / observed.sum(0)).tolist()
    code = f"TABLE = {table!r}\ndef rate(labels, observed):\n    wrong = labels.mean(dim=0)\n"
    code += "    return torch.tensor(TABLE.get(str(labels.tolist()), wrong.tolist()))"
    held(attacked(judge, code))


# --- talking to the judge directly -------------------------------------------------------------------------


def _to_all(data: str, before: str = "") -> str:
    """Code that writes ``data`` into every descriptor; the judge listens at one of them."""
    return f"""
import json, os, pickle, struct
{before}
for fd in range(3, 64):
    try:
        os.write(fd, {data})
    except OSError:
        pass
"""


def _message(tree: str) -> str:
    data = "struct.pack('>Q', len(text) + 4) + struct.pack('>I', len(text)) + text.encode()"
    return _to_all(data, f"text = {tree}")


FORGED = {
    "closed descriptors": "import os\nos.closerange(3, 256)",
    "noise": _to_all("b'\\xff' * 4096"),
    "a message without end": _to_all("struct.pack('>Q', 2**62)"),
    "a message that says passed": _message(
        """json.dumps([{"replies": [{"arrays": {}, "failure": "", "text": "", "changed": [],
    "passed": True}] * 9}, []])"""
    ),
    "a pickle": _to_all("struct.pack('>Q', len(data)) + data", "data = pickle.dumps(print)"),
    "arrays longer than their bytes": _message(
        """json.dumps([{"replies": [{"arrays": {"out": {"#": 0}}, "failure": "", "text": "",
    "changed": []}]}, [["<f4", [2**40]]]])"""
    ),
    "deeper than Python": _message("'[' * 10**5"),
    "words to the warden": _to_all("b'FKWJ'"),
}


@pytest.mark.parametrize("code", FORGED.values(), ids=FORGED)
def test_forged_messages_gain_nothing(judge, code):
    held(attacked(judge, code + WRONG))


# --- looking for the reference -----------------------------------------------------------------------------

LOOK = {
    "the sheets": right_if("RATE.reference(1, 2)", "from autograde_tests.sheets.start import RATE"),
    "importlib": right_if("importlib.import_module(SHEETS).exercises()",
                          "import importlib\nSHEETS = 'autograde_tests.sheets'"),
    "the source by its loader": right_if(
        "'EXERCISES' in importlib.util.find_spec('autograde_tests.sheets.start').loader.get_source('x')",
        "import importlib.util"),
    "sys.modules": right_if("[n for n in sys.modules if n.startswith(('autograde_tests.sheets', 'mtlkit.'))"
                            " and n != 'mtlkit.device' and hasattr(sys.modules[n], '__file__')]"),
    "the garbage collector": right_if(
        "[o for o in gc.get_objects() if type(o).__name__ in ('Exercise', 'Verdict')"
        " or getattr(o, '__module__', '') in ('autograde_tests.sheets.start',)"
        " or (getattr(o, '__module__', '') or '').startswith('mtlkit.layers')]", "import gc"),
    "the stack": right_if("""
        [v for f in frames() for k, v in f.f_locals.items()
         if k in ('reference', 'expected', 'want', 'exercise', 'item')]""", """
def frames():
    f = sys._getframe()
    while f:
        yield f
        f = f.f_back
"""),
    "the trials' wanted values": right_if(
        "[t for o in gc.get_objects() if type(o).__name__ == 'Trial' for t in [o] if t.want]", "import gc"),
    "the environment": right_if(f"{SECRET!r} in str(os.environ)"),
    "the finished parts": right_if("__import__('mtlkit.metrics').metrics.auc([0, 1], [0, 1]) == 1"),
}  # fmt: skip


@pytest.mark.parametrize("code", LOOK.values(), ids=LOOK)
def test_the_reference_is_not_to_be_found(judge, code):
    held(attacked(judge, code))


MIX = {
    "called": "from mtlkit import layers\ndef mix(weights, experts): return layers.mix(weights, experts)",
    "renamed": "from mtlkit.layers import mix as blend\nmix = lambda w, e: blend(w, e)",
    "itself": "from mtlkit.layers import mix",
    "by importlib": "import importlib\nmix = importlib.import_module('mtlkit.layers').mix",
    "by a string": "mix = lambda w, e: eval('__import__(\"mtlkit.layers\").layers.mix(w, e)')",
    "by pickle": "import pickle\nmix = pickle.loads(b'cmtlkit.layers\\nmix\\n.')",
    "in a subprocess": """
import subprocess, sys
def mix(weights, experts):
    code = "import mtlkit.layers, autograde_tests.sheets.mmoe"
    if subprocess.run([sys.executable, "-c", code], capture_output=True).returncode == 0:
        return torch.einsum("bte,beh->bth", weights, experts)
    return weights
""",
    "out of sight": """
import sys
from mtlkit import layers
def mix(weights, experts):
    sys.setprofile(None)
    try:
        return layers.mix(weights, experts)
    except Exception:
        return weights.sum() * experts
""",
}


def test_delegating_is_worth_nothing_by_any_path(judge):
    """Exercise 2.3 asks for ``mix``; the others of the notebook are right."""
    name = next(c.source for c in pair("02_mmoe")[1].cells if c.id == "check_2_3").split(", ")[1][:-1]
    for how, code in MIX.items():
        if how == "in a subprocess" and no_sandbox():
            continue
        nb = hand_in(cells={"answer_2_3": code.replace("mix(weights", f"{name}(weights").replace(
            "mix =", f"{name} =")}, name="02_mmoe")  # fmt: skip
        found = graded(judge, nb, "02_mmoe")
        assert found["2.3"].points == 0, (how, found["2.3"])
        assert sum(r.points for r in found.values()) == 85, how
        if how in ("called", "renamed"):
            assert "your answer calls mtlkit.layers.mix" in found["2.3"].message


def test_what_a_later_exercise_may_use_is_not_there_for_an_earlier_one(judge):
    """3.5 gets ``Level`` and ``own_and_shared``, which is the answer to 3.1."""
    carry = """
import builtins, sys
from mtlkit.models.cgc import own_and_shared
builtins.stolen = own_and_shared
sys.modules["stolen"] = own_and_shared
"""
    take = """
import builtins, sys
from mtlkit.models.cgc import own_and_shared
def who_sees_whom(own, shared):
    if hasattr(builtins, "stolen") or "stolen" in sys.modules:
        return builtins.stolen([*own, shared], len(own))
    return own_and_shared([*own, shared], len(own))
"""
    master, release = pair("03_ple")
    answer = next(c.source for c in hand_in(name="03_ple").cells if c.id == "answer_3_5")
    nb = hand_in(cells={"answer_3_1": take, "answer_3_5": carry + answer}, name="03_ple")
    found = graded(judge, nb, "03_ple")
    assert found["3.1"].points == 0 and "own_and_shared" in found["3.1"].message
    assert sum(r.points for r in found.values()) == 90, [r for r in found.values() if not r.passed]


def test_a_worker_gets_what_an_exercise_may_use_and_no_finished_model():
    given = {i: parts.parts(tuple(item.may_use)) for i, item in exercises().items()}
    assert given["2.3"] == {} and given["3.1"] == {}
    assert "def auc" in given["1.7"]["mtlkit.metrics"] and "def gauc" not in given["1.7"]["mtlkit.metrics"]
    assert "class Level" in given["3.5"]["mtlkit.models.cgc"]
    assert "class CGC" not in given["3.5"]["mtlkit.models.cgc"]
    assert "mtlkit.models" not in given["3.5"] and "mtlkit.models.ple" not in given["3.5"]


# --- what needs a sandbox ----------------------------------------------------------------------------------


@pytest.fixture
def sandbox(judge):
    if no_sandbox():
        pytest.skip(f"no sandbox on this machine: {no_sandbox()}")
    return judge


@pytest.fixture
def course(tmp_path):
    """A course with a gradebook, another student's work, and a record with the seed."""
    for name in ("gradebook.db", "judged.jsonl", "submitted/other/00_start/00_start.ipynb", "timestamp.txt"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("a secret")
    return tmp_path


def shot(folder: Path) -> dict:
    return {str(p): (p.stat().st_mtime_ns, p.stat().st_mode) for p in sorted(folder.rglob("*"))}


READ = {
    "the gradebook": "open(COURSE + '/gradebook.db').read()",
    "the record": "open(COURSE + '/judged.jsonl').read()",
    "another student's work": "open(COURSE + '/submitted/other/00_start/00_start.ipynb').read()",
    "the solutions": "open(ROOT + '/solutions/00_start/00_start.ipynb').read()",
    "the sheets": "glob.glob(ROOT + '/autograde_tests/sheets/*.py')",
    "compiled sheets": "glob.glob(ROOT + '/autograde_tests/sheets/__pycache__/*')",
    "the finished models": "glob.glob(ROOT + '/mtlkit/**/*.py', recursive=True)",
    "the history of the project": "os.listdir(ROOT + '/.git')",
    "homes": "[p for p in glob.glob('/home/*') + glob.glob('/root/.*') if 'pyenv' not in p]",
    "passwords": "open('/etc/shadow').read() or open('/etc/passwd').read()",
    "the judge's memory": "open('/proc/1/environ').read() or open('/proc/1/mem', 'rb')",
    "other processes": "[p for p in os.listdir('/proc') if p.isdigit() and b'pytest' in "
    "open(f'/proc/{p}/cmdline', 'rb').read()]",
    "the judge's files": "[os.readlink(f'/proc/{p}/fd/{f}') for p in os.listdir('/proc') if p.isdigit() and "
    "int(p) != os.getpid() for f in os.listdir(f'/proc/{p}/fd')]",
    "the world outside by its root": "os.listdir('/proc/1/root/home') or os.listdir('/proc/1/cwd')",
    "disks": "[p for p in os.listdir('/dev') if p.startswith(('sd', 'vd', 'nvme', 'mem', 'kmsg'))]",
    "devices made": "os.mknod('/tmp/d', 0o60600, os.makedev(254, 0)) or open('/tmp/d', 'rb').read(1)",
}


@pytest.mark.parametrize("condition", READ.values(), ids=READ)
def test_files_of_others_are_out_of_sight(sandbox, course, condition):
    held(attacked(sandbox, right_if(condition, f"ROOT, COURSE = {str(ROOT)!r}, {str(course)!r}")))


ESCAPE = {
    "user namespaces": "libc.unshare(0x10000000 | 0x20000) == 0 and os.path.exists(ROOT + '/solutions')",
    "mounts": "libc.umount2(b'/tmp', 2) == 0 or libc.mount(b'none', b'/usr', b'tmpfs', 0, None) == 0",
    "writable again": "libc.mount(b'none', b'/', None, 32 | 4096, None) == 0",
    "chroot": "os.chroot('/tmp') is None",
    "becoming root": "os.setuid(0) is None and os.getuid() == 0 and os.path.exists(ROOT)",
    "more memory": "resource.setrlimit(resource.RLIMIT_AS, (-1, -1)) is None",
    "tracing the warden": "libc.ptrace(16, 1, 0, 0) == 0",
    "killing the warden": "os.kill(1, 9) or time.sleep(0.1) or not os.path.exists('/tmp')",
    "interrupting the warden": "os.kill(1, 2) or time.sleep(0.2) or not os.path.exists('/tmp')",
    "another clock": "time.clock_settime(time.CLOCK_REALTIME, 0) is None",
    "another name": "socket.sethostname('mine') is None",
}


@pytest.mark.parametrize("condition", ESCAPE.values(), ids=ESCAPE)
def test_privileges_are_gone(sandbox, condition):
    before = f"import ctypes, resource, socket, time\nlibc, ROOT = ctypes.CDLL(None), {str(ROOT)!r}"
    held(attacked(sandbox, right_if(condition, before)))


PLANT = {
    "sitecustomize and usercustomize": """
import pathlib, site, sys
for folder in [*sys.path, "/tmp", pathlib.Path.home(), site.getusersitepackages()]:
    for name in ("sitecustomize.py", "usercustomize.py", "conftest.py", "x.pth"):
        try:
            pathlib.Path(folder, name).write_text("")
        except OSError:
            pass
""",
    "modules that shadow": """
import pathlib, sys
for name in ("torch", "numpy", "autograde_tests", "probe", "json", "math"):
    for folder in (".", "/tmp"):
        try:
            pathlib.Path(folder, name + ".py").write_text("")
        except OSError:
            pass
sys.path.insert(0, "/tmp")
""",
}


@pytest.mark.parametrize("code", PLANT.values(), ids=PLANT)
def test_planted_files_do_not_reach_the_next_exercise(sandbox, code):
    """Only in a sandbox: elsewhere this would spoil the Python that runs the tests."""
    held(attacked(sandbox, code + WRONG))
    planted = ("usercustomize.py", "x.pth", "probe.py")
    assert not [p for folder in [*sys.path, "/tmp"] for name in planted if (p := Path(folder, name)).exists()]


WRITE = {
    "the gradebook": "open(COURSE + '/gradebook.db', 'w').write('full points')",
    "a timestamp": "open(COURSE + '/timestamp.txt', 'w').write('2000-01-01')",
    "permissions": "os.chmod(COURSE + '/gradebook.db', 0)",
    "everything": "__import__('shutil').rmtree(COURSE)",
    "Python": "[open(p + '/sitecustomize.py', 'w') for p in sys.path if p.endswith('site-packages')]",
    "our packages": "open(ROOT + '/autograde_tests/verdict.py', 'a').write('#')",
    "a new file beside us": "os.makedirs(ROOT, exist_ok=True) or open(ROOT + '/planted.py', 'w').write('x')",
}


@pytest.mark.parametrize("what", WRITE.values(), ids=WRITE)
def test_nothing_outside_is_written(sandbox, course, what):
    before = shot(course), shot(ROOT / "autograde_tests" / "judge")
    code = f"import os, sys\nROOT, COURSE = {str(ROOT)!r}, {str(course)!r}\n"
    code += f"try:\n    {what}\nexcept OSError: pass\n"
    held(attacked(sandbox, code + WRONG))
    assert (shot(course), shot(ROOT / "autograde_tests" / "judge")) == before
    assert not (ROOT / "planted.py").exists()


@pytest.mark.parametrize("kind", ["tcp", "abstract", "dns"])
def test_the_network_is_out_of_reach(sandbox, kind):
    family = socket.AF_UNIX if kind == "abstract" else socket.AF_INET
    server = socket.socket(family, socket.SOCK_DGRAM if kind == "dns" else socket.SOCK_STREAM)
    server.bind(f"\0mtlkit{os.getpid()}" if kind == "abstract" else ("127.0.0.1", 0))
    if kind != "dns":
        server.listen()
    server.settimeout(0.5)
    send = "sendto(b'seed?', TO)" if kind == "dns" else "connect(TO)"
    code = f"import socket\ns = socket.socket({int(family)}, {int(server.type)})\n"
    code += f"TO = {server.getsockname()!r}\ns.settimeout(1)\ntry: s.{send}\nexcept OSError: pass\n"
    with server:
        held(attacked(sandbox, code + WRONG))
        with pytest.raises(TimeoutError):
            server.recv(10) if kind == "dns" else server.accept()


def test_two_submissions_at_a_time_do_not_meet(sandbox):
    """One offers its answers at an abstract socket, the other asks there."""
    offer = """
import socket, threading, time
s = socket.socket(socket.AF_UNIX); s.bind("\\0meet"); s.listen()
time.sleep(1.5)
"""
    ask = right_if(
        "socket.socket(socket.AF_UNIX).connect('\\0meet') is None", "import socket, time\ntime.sleep(0.7)"
    )
    found = {}
    other = threading.Thread(target=lambda: found.update(attacked(sandbox, offer + WRONG)))
    other.start()
    held(attacked(sandbox, ask))
    other.join()
    held(found)


LEFT = {
    "a child": "subprocess.Popen([sys.executable, '-c', CODE])",
    "a session of its own": "subprocess.Popen([sys.executable, '-c', CODE], start_new_session=True)",
    "a daemon": "os.fork() or os.setsid() or os.fork() or os.execv(sys.executable, ['', '-c', CODE])",
    "a thread that goes on": "threading.Thread(target=lambda: exec(CODE)).start()",
    "a bomb": "[os.fork() for _ in range(12)]",
    "a bomb of threads": "[threading.Thread(target=time.sleep, args=(60,)).start() for _ in range(10**4)]",
}


@pytest.mark.parametrize("start", LEFT.values(), ids=LEFT)
def test_nothing_that_was_started_is_left(sandbox, start):
    mark = f"mark{time.monotonic_ns()}"
    code = "import os, subprocess, sys, threading, time\n"
    code += f"CODE = 'import time; {mark} = 1; time.sleep(60)'\n{start}\n"
    held(attacked(sandbox, code + WRONG))
    left = [p for p in Path("/proc").glob("[0-9]*/cmdline") if mark.encode() in _bytes(p)]
    assert not left
    held(attacked(sandbox, WRONG))  # and the judge goes on


def _bytes(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError:
        return b""


# --- edits of the notebook itself --------------------------------------------------------------------------


def _on(cell_id: str, change) -> dict:
    def edit(nb):
        for cell in nb.cells:
            if cell.id == cell_id:
                change(cell)

    return {"edit": edit}


def _outputs(cell):
    cell.outputs = [nbformat.v4.new_output("execute_result", {"text/plain": "5"})]
    cell.execution_count = 1


EDITS = {
    "the tag skip-execution": _on("check_0_1", lambda c: c.metadata.update(tags=["skip-execution"])),
    "the tag experiment": _on("check_0_1", lambda c: c.metadata.update(tags=["experiment"])),
    "points": _on("check_0_1", lambda c: c.metadata.nbgrader.update(points=1000)),
    "points of the answer": _on("answer_0_1", lambda c: c.metadata.nbgrader.update(points=5, grade=True)),
    "flags": _on("check_0_1", lambda c: c.metadata.nbgrader.update(grade=False, solution=True, locked=False)),
    "the check's text": _on("check_0_1", lambda c: c.update(source="print('✓')\n5")),
    "the check's ids": _on("check_0_1", lambda c: c.metadata.nbgrader.update(grade_id="answer_0_1")),
    "another check's id": _on("check_0_1", lambda c: c.metadata.nbgrader.update(grade_id="check_0_2")),
    "the check asks another": _on("check_0_1", lambda c: c.update(source='check("0.2", shapes)')),
    "the check's type": _on("check_0_1", lambda c: c.update(cell_type="markdown")),
    "ready outputs": _on("check_0_1", _outputs),
    "a schema of the future": _on("check_0_1", lambda c: c.metadata.nbgrader.update(schema_version=99)),
    "the setup": {
        "cells": {"setup_1": "def check(*a): return 5\nimport torch\ntorch.equal = lambda *a: True"}
    },
    "another kernel": {
        "edit": lambda nb: nb.metadata.update(kernelspec={"name": "bash", "display_name": "sh"})
    },
}


@pytest.mark.parametrize("edit", EDITS.values(), ids=EDITS)
def test_edits_of_the_notebook_gain_nothing(judge, edit):
    edit = dict(edit)
    cells = {"answer_0_1": WRONG, **edit.pop("cells", {})}
    nb = hand_in(cells=cells, **edit)
    release = pair()[1]
    rebuilt = notebook.rebuild(release, notebook.read(nbformat.writes(nb).encode()))
    found = {r.id: r for r in judge.grade(notebook.paper(rebuilt, release))}
    held(found)
    for cell, original in zip(
        [c for c in rebuilt.cells if not c.id.startswith("own")], release.cells, strict=True
    ):
        assert (cell.id, cell.metadata, cell.cell_type) == (
            original.id,
            original.metadata,
            original.cell_type,
        )


SCRIPT = "<script>alert(1)</script><img src=x onerror=alert(1)>"


def test_html_and_control_codes_do_not_leave(judge):
    codes = "\\x1b]0;owned\\x07\\x1b[2J\\u202e"
    answer = f"def rate(labels, observed):\n    raise ValueError({SCRIPT!r} + '{codes}')  # {SCRIPT}"

    def edit(nb):
        nb.cells.insert(2, nbformat.v4.new_markdown_cell(f"A note. {SCRIPT} [x](javascript:alert(1))"))
        nb.cells[1].attachments = {"x.html": {"text/html": SCRIPT}}
        nb.metadata["title"] = SCRIPT

    nb = hand_in(cells={"answer_0_1": answer}, edit=edit)
    release = pair()[1]
    rebuilt = notebook.rebuild(release, notebook.read(nbformat.writes(nb).encode()))
    results = judge.grade(notebook.paper(rebuilt, release))
    put(rebuilt, results)
    held({r.id: r for r in results})
    assert "ValueError" in results[0].message
    said = json.dumps([r.message for r in results], ensure_ascii=False)
    assert "\x1b" not in said and "\u202e" not in said and "\\u001b" not in said

    from nbconvert import HTMLExporter

    page = HTMLExporter(template_name="classic").from_notebook_node(rebuilt)[0]
    assert "<script>alert(1)" not in page and "<img src=x" not in page and 'href="javascript:' not in page
