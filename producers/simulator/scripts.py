"""What happens to simulated VMs and hosts, in the orders in which real hypervisors show it.

Every function returns a `Script`; nothing happens until a fleet plays it. Delays are those of a quick machine.
"""

from collections.abc import Iterable

from producers.simulator.fleet import Act, Fleet, Script, Step
from schemas.status import (
    ExitReason,
    ExitStatus,
    GoneReason,
    PauseErrno,
    PauseReason,
    Status,
)


def step(name: str, after_seconds: float, act: Act) -> Step:
    """Short for a `Step`."""
    return Step(name=name, after_seconds=after_seconds, act=act)


def boot(vm: int) -> Script:
    """Start a defined VM: starting, up (told twice, as libvirt does: RESUMED before STARTED), guest agent."""

    def starting(fleet: Fleet) -> None:
        fleet.vms[vm].exit = None
        fleet.begin(vm, fleet.vms[vm].owner, Status.STARTING, "booted")

    def up(fleet: Fleet) -> None:
        fleet.become(vm, fleet.vms[vm].owner, Status.UP, "booted")

    return Script(
        name="boot",
        vms=(vm,),
        steps=(
            step("starting", 0.0, starting),
            step("resumed", 0.4, up),
            step("started", 0.004, lambda fleet: fleet.touch(vm)),
            step("guest", 1.0, lambda fleet: fleet.guest_answers(vm, True)),
        ),
    )


def stop(vm: int) -> Script:
    """The guest shuts down."""
    return Script(
        name="stop",
        vms=(vm,),
        steps=(
            step("shutdown", 0.0, lambda f: f.become(vm, f.vms[vm].owner, Status.POWERING_DOWN, "guest")),
            step("stopped", 1.6, _ended(vm, Status.DOWN, "shutdown", ExitStatus.NORMAL, ExitReason.GUEST_SHUTDOWN)),
        ),
    )


def destroy(vm: int) -> Script:
    """An administrator ends it."""
    return Script(
        name="destroy",
        vms=(vm,),
        steps=(
            step("shutdown", 0.0, lambda f: f.become(vm, f.vms[vm].owner, Status.POWERING_DOWN, "host")),
            step("stopped", 0.05, _ended(vm, Status.DOWN, "destroyed", ExitStatus.NORMAL, ExitReason.ADMIN_DESTROY)),
        ),
    )


def qemu_death(vm: int) -> Script:
    """The process is killed: one event, no shutdown before it."""
    died = _ended(vm, Status.CRASHED, "crashed", ExitStatus.ERROR, ExitReason.QEMU_DIED)
    return Script(name="qemu_death", vms=(vm,), steps=(step("failed", 0.0, died),))


def _ended(vm: int, status: Status, reason: str, exit_status: ExitStatus, why: ExitReason) -> Act:
    return lambda fleet: fleet.end(vm, fleet.vms[vm].owner, status, reason, exit_status, why)


def reboot(vm: int) -> Script:
    """The guest reboots: REBOOT twice within 70 ms, the guest agent goes and comes back."""

    def rebooting(fleet: Fleet) -> None:
        fleet.become(vm, fleet.vms[vm].owner, Status.REBOOTING, "guest")
        fleet.guest_answers(vm, False)

    def up(fleet: Fleet) -> None:
        fleet.become(vm, fleet.vms[vm].owner, Status.UP, "booted")
        fleet.guest_answers(vm, True)

    return Script(
        name="reboot",
        vms=(vm,),
        steps=(
            step("reboot", 0.0, rebooting),
            step("reboot again", 0.07, lambda fleet: fleet.touch(vm)),
            step("guest", 2.0, up),
        ),
    )


def pause(vm: int) -> Script:
    """A user pauses it."""
    return Script(
        name="pause",
        vms=(vm,),
        steps=(
            step(
                "suspended",
                0.0,
                lambda f: f.become(vm, f.vms[vm].owner, Status.PAUSED, "user", pause_reason=PauseReason.USER),
            ),
        ),
    )


def io_error(vm: int, errno: PauseErrno = PauseErrno.ENOSPC) -> Script:
    """A write fails and QEMU pauses the guest."""

    def paused(fleet: Fleet) -> None:
        fleet.become(
            vm,
            fleet.vms[vm].owner,
            Status.PAUSED,
            "io_error",
            pause_reason=PauseReason.IO_ERROR,
            pause_errno=errno,
        )

    return Script(name="io_error", vms=(vm,), steps=(step("io error", 0.0, paused),))


def resume(vm: int) -> Script:
    """It runs on."""
    return Script(
        name="resume",
        vms=(vm,),
        steps=(step("resumed", 0.0, lambda f: f.become(vm, f.vms[vm].owner, Status.UP, "unpaused")),),
    )


def plug(vm: int) -> Script:
    """One more disk."""

    def added(fleet: Fleet) -> None:
        record = fleet.vms[vm]
        record.plugged = (*record.plugged, max(record.plugged, default=0) + 1)
        fleet.touch(vm)

    return Script(name="plug", vms=(vm,), steps=(step("device added", 0.0, added),))


def unplug(vm: int) -> Script:
    """The disk plugged last goes; without one, only a hint that leads to nothing."""

    def removed(fleet: Fleet) -> None:
        fleet.vms[vm].plugged = fleet.vms[vm].plugged[:-1]
        fleet.touch(vm)

    return Script(name="unplug", vms=(vm,), steps=(step("device removed", 0.0, removed),))


def guest_change(vm: int) -> Script:
    """The guest has other addresses."""

    def changed(fleet: Fleet) -> None:
        fleet.vms[vm].lease += 1
        fleet.guest_answers(vm, True)

    return Script(name="guest_change", vms=(vm,), steps=(step("addresses", 0.0, changed),))


def connect(vm: int, client: int = 1) -> Script:
    """Somebody looks at the console."""

    def connected(fleet: Fleet) -> None:
        record = fleet.vms[vm]
        record.client, record.client_since = client, fleet.now.wall_ns
        fleet.touch(vm)

    return Script(name="connect", vms=(vm,), steps=(step("client", 0.0, connected),))


def disconnect(vm: int) -> Script:
    """Nobody looks at the console any more."""

    def disconnected(fleet: Fleet) -> None:
        fleet.vms[vm].client, fleet.vms[vm].client_since = 0, None
        fleet.touch(vm)

    return Script(name="disconnect", vms=(vm,), steps=(step("client", 0.0, disconnected),))


def block_job(vm: int) -> Script:
    """A block job begins and ends."""

    def jobs(open_jobs: tuple[int, ...]) -> Act:
        def act(fleet: Fleet) -> None:
            fleet.vms[vm].open_jobs = open_jobs
            fleet.touch(vm)

        return act

    return Script(name="block_job", vms=(vm,), steps=(step("job", 0.0, jobs((1,))), step("job done", 1.0, jobs(()))))


def storm(vms: Iterable[int], *, over_seconds: float = 0.0) -> Script:
    """All of these VMs boot, spread over a time."""
    subjects = tuple(vms)
    boots = [boot(vm) for vm in subjects]
    waits = [over_seconds / max(1, len(subjects))] * len(subjects)

    def start(script: Script) -> Act:
        return lambda fleet: fleet.start(script)

    steps = tuple(step(f"boot {script.vms[0]}", wait, start(script)) for script, wait in zip(boots, waits, strict=True))
    return Script(name="storm", vms=(), steps=steps)


def define(host: int) -> Script:
    """One more VM, defined and down."""
    return Script(name="define", vms=(), steps=(step("defined", 0.0, lambda fleet: _ignore(fleet.define(host))),))


def _ignore(_: object) -> None:
    """A step has no result."""


def undefine(vm: int) -> Script:
    """The definition of a stopped VM goes, wherever one is left."""

    def undefined(fleet: Fleet) -> None:
        fleet.vms[vm].removed = True
        for host in fleet.hosts:
            if vm in host.runs:
                fleet.leave(vm, host.index, GoneReason.UNDEFINED)

    return Script(name="undefine", vms=(vm,), steps=(step("undefined", 0.0, undefined),))


def define_again(vm: int) -> Script:
    """A removed VM is defined once more under the same id."""
    return Script(name="define_again", vms=(vm,), steps=(step("defined", 0.0, lambda fleet: fleet.define_again(vm)),))


def crash_host(host: int) -> Script:
    """The host loses power."""
    return Script(name="crash_host", vms=(), steps=(step("power lost", 0.0, lambda fleet: fleet.crash_host(host)),))


def return_host(host: int) -> Script:
    """The host boots; its VMs are shut off."""
    return Script(name="return_host", vms=(), steps=(step("booted", 0.0, lambda fleet: fleet.return_host(host)),))


def restart_agent(host: int, *, farewell: bool = True, away_seconds: float = 1.0) -> Script:
    """The agent of a host stops, in order or not, and a new one starts."""
    return Script(
        name="restart_agent",
        vms=(),
        steps=(
            step("agent stops", 0.0, lambda fleet: fleet.set_agent(host, running=False, farewell=farewell)),
            step("agent starts", away_seconds, lambda fleet: fleet.set_agent(host, running=True)),
        ),
    )


def disconnect_hypervisor(host: int, *, seconds: float) -> Script:
    """The agent loses its hypervisor for a while."""
    return Script(
        name="disconnect_hypervisor",
        vms=(),
        steps=(
            step("lost", 0.0, lambda fleet: fleet.set_connected(host, False)),
            step("back", seconds, lambda fleet: fleet.set_connected(host, True)),
        ),
    )


def then(*scripts: Script, after_seconds: float = 0.0) -> Script:
    """Scripts one after the other, with a pause between them."""
    steps: list[Step] = []
    for number, script in enumerate(scripts):
        first, *rest = script.steps
        pause_seconds = first.after_seconds + (after_seconds if number else 0.0)
        steps += [Step(name=first.name, after_seconds=pause_seconds, act=first.act), *rest]
    vms = tuple(sorted({vm for script in scripts for vm in script.vms}))
    return Script(name="+".join(script.name for script in scripts), vms=vms, steps=tuple(steps))
