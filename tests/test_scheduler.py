"""When probes are made: the grid, its spread, what is skipped, and the threads that make them."""

import random
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator

import pytest

from factories import make_hop, make_result, make_target, make_targets
from otel_url_monitor.model import FailureReason, ProbeResult, SkipReason, Target
from otel_url_monitor.scheduler import Probed, Scheduler, Skipped, phase

WALL = 1_700_000_000.0
PATIENCE = 10.0


class Clock:
    """Monotonic seconds that a test moves by hand."""

    def __init__(self) -> None:
        self.now = 5000.0

    def __call__(self) -> float:
        return self.now


class Events:
    """Everything that was delivered, in order."""

    def __init__(self) -> None:
        self.all: list[Probed | Skipped] = []
        self._changed = threading.Condition()

    def __call__(self, event: Probed | Skipped) -> None:
        with self._changed:
            self.all.append(event)
            self._changed.notify_all()

    def wait_for(self, count: int) -> list[Probed | Skipped]:
        with self._changed:
            assert self._changed.wait_for(lambda: len(self.all) >= count, PATIENCE), self.all
            return list(self.all)


class HeldProbe:
    """A probe that takes as long as a test wants it to."""

    def __init__(self) -> None:
        self.probed: list[Target] = []
        self.threads: list[int] = []
        self._changed = threading.Condition()
        self._allowed: Counter[str] = Counter()
        self._is_open = False

    def __call__(self, target: Target, _lag: float) -> ProbeResult:
        with self._changed:
            self.probed.append(target)
            self.threads.append(threading.get_ident())
            self._changed.notify_all()
            assert self._changed.wait_for(lambda: self._is_open or self._allowed[target.url] > 0, PATIENCE)
            self._allowed[target.url] -= 1
        return make_result(target, make_hop())

    def has_begun(self, count: int) -> None:
        """Wait until this many probes were begun in all."""
        with self._changed:
            assert self._changed.wait_for(lambda: len(self.probed) >= count, PATIENCE), self.probed

    def end(self, target: Target) -> None:
        """Let one probe of the target end."""
        with self._changed:
            self._allowed[target.url] += 1
            self._changed.notify_all()

    def open(self) -> None:
        """Let every probe end."""
        with self._changed:
            self._is_open = True
            self._changed.notify_all()

    def close(self) -> None:
        """Hold the probes that begin from now on."""
        with self._changed:
            self._is_open = False
            self._allowed.clear()


def probing_threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "probe"]


class Lab:
    """A scheduler on a clock that is moved by hand, with probes that are held."""

    def __init__(self, max_in_flight: int = 8) -> None:
        self.clock = Clock()
        self.events = Events()
        self.probe = HeldProbe()
        self.targets: tuple[Target, ...] = ()
        self.scheduler = Scheduler(
            self.probe, self.events, max_in_flight=max_in_flight, monotonic=self.clock, wall=lambda: WALL
        )

    def watch(self, *targets: Target) -> None:
        self.targets = targets
        self.scheduler.set_targets(targets)

    def first_due(self, target: Target) -> float:
        return 5000.0 + phase(target, WALL)

    def move_to(self, now: float) -> None:
        """Move the clock; setting the same targets anew makes the waiting thread look at it."""
        self.clock.now = now
        self.scheduler.set_targets(self.targets)


@pytest.fixture
def lab() -> Iterator[Callable[..., Lab]]:
    """Makes schedulers, and sees to it that none leaves a thread behind."""
    assert probing_threads() == []
    made: list[Lab] = []

    def make(**options: int) -> Lab:
        made.append(Lab(**options))
        return made[-1]

    yield make
    for one in made:
        one.scheduler.stop()
        one.probe.open()
    join(probing_threads())


def join(threads: list[threading.Thread]) -> None:
    for thread in threads:
        thread.join(PATIENCE)
        assert not thread.is_alive()


def probed(target: Target, lag: float = 0.0) -> Probed:
    return Probed(result=make_result(target, make_hop()), lag=lag)


def skipped(target: Target, reason: SkipReason, count: int) -> Skipped:
    return Skipped(target_id=target.id, reason=reason, count=count)


A = make_target("https://a.example/", interval=10.0)
B = make_target("https://b.example/", interval=10.0)
C = make_target("https://c.example/", interval=10.0)


class TestGrid:
    """Each target has its own places in time."""

    def test_the_place_in_the_interval_is_the_target_s_own(self) -> None:
        """When a target is probed depends on its identity alone: a restart at any moment changes nothing."""
        target = make_target(interval=15.0)
        places = {round((now + phase(target, now)) % 15.0, 3) for now in (WALL, WALL + 0.1, WALL + 7.77, WALL + 1e6)}
        assert places == {round(int(target.id, 16) / 2**64 * 15.0, 3)}

    def test_targets_are_spread_evenly(self) -> None:
        """A thousand targets are spread over the interval as evenly as chance would spread them."""
        places = Counter(int(phase(target, 0.0) / 15.0 * 20) for target in make_targets(1000))
        assert len(places) == 20
        assert sum((count - 50) ** 2 / 50 for count in places.values()) < 43.8  # chi squared, 19 degrees, p = 0.001

    @pytest.mark.parametrize("interval", [0.1, 1.0, 15.0, 86400.0])
    def test_the_first_probe_is_within_one_interval(self, interval: float) -> None:
        """No target waits longer than its interval for its first probe."""
        assert all(0 <= phase(make_target(str(n), interval=interval), WALL) < interval for n in range(100))

    def test_it_does_not_drift(self) -> None:
        """Twenty probes later, each late by a little and taking its time, due times are still on the first grid."""
        target = make_target(interval=0.05)
        trace = Trace(duration=lambda: 0.005)
        scheduler = trace.scheduler(max_in_flight=4)
        began = time.monotonic()
        scheduler.set_targets([target])
        trace.events.wait_for(20)
        scheduler.stop()
        join(probing_threads())
        first = trace.dues[target.id][0]
        assert began < first < began + 0.05 + 0.05
        assert trace.problems() == []
        lags = [event.lag for event in trace.events.all if isinstance(event, Probed)]
        assert sorted(lags)[len(lags) // 2] < 0.02

    def test_a_quick_target_does_not_wait_for_a_slow_one(self) -> None:
        """A target that comes round soon is probed in time while the others are not due for a long while."""
        events = Events()
        quick, slow = make_target("https://quick.example/", interval=0.01), make_target(interval=86400.0)
        scheduler = Scheduler(lambda target, _lag: make_result(target, make_hop()), events, max_in_flight=4)
        scheduler.set_targets([quick, slow])
        made = events.wait_for(20)
        scheduler.stop()
        join(probing_threads())
        assert all(event.result.target_id == quick.id for event in made if isinstance(event, Probed))

    def test_a_late_start_is_told(self, lab) -> None:
        """How long after its due time a probe started is part of what is delivered."""
        one = lab()
        one.watch(A)
        one.move_to(one.first_due(A) + 2.5)
        one.probe.end(A)
        assert one.events.wait_for(1) == [probed(A, lag=2.5)]


class TestSkipping:
    """What was due and is not made is counted."""

    def test_a_probe_that_outlasts_its_interval(self, lab) -> None:
        """While a probe is under way its target is not probed again; the places it missed count as overrun."""
        one = lab()
        one.watch(A)
        due = one.first_due(A)
        one.move_to(due)
        one.probe.has_begun(1)
        assert one.scheduler.in_flight == 1
        one.move_to(due + 35.0)
        one.probe.end(A)
        assert one.events.wait_for(2) == [probed(A), skipped(A, SkipReason.OVERRUN, 3)]
        assert one.scheduler.in_flight == 0
        one.move_to(due + 40.0)
        one.probe.end(A)
        assert one.events.wait_for(3)[2:] == [probed(A)]
        assert one.probe.probed == [A, A]

    def test_a_target_that_no_thread_is_free_for(self, lab) -> None:
        """A target that waits because every thread is busy is probed as soon as one is free; what it missed counts."""
        one = lab(max_in_flight=1)
        first, second = sorted((A, B), key=one.first_due)
        one.watch(A, B)
        one.move_to(one.first_due(first))
        one.probe.has_begun(1)
        one.move_to(one.first_due(second) + 34.5)
        one.probe.end(first)
        one.probe.has_begun(2)
        one.probe.end(second)
        counted = [
            event
            for event in one.events.wait_for(4)
            if event.__class__ is Skipped or event.result.target_id == second.id
        ]
        assert skipped(second, SkipReason.SATURATED, 3) in counted
        assert probed(second, lag=4.5) in counted

    def test_the_longest_waiting_goes_first(self, lab) -> None:
        """With too few threads the target that has waited longest is next, so that none starves."""
        one = lab(max_in_flight=1)
        order = sorted((A, B, C), key=one.first_due)
        one.watch(A, B, C)
        one.move_to(one.first_due(order[0]))
        one.probe.has_begun(1)
        one.move_to(max(map(one.first_due, order)) + 1.0)
        for target in order:
            one.probe.end(target)
        one.probe.has_begun(3)
        assert one.probe.probed[:3] == order

    def test_a_free_thread_waits_for_the_next(self, lab) -> None:
        """When all threads were busy and one becomes free, it takes over waiting for what is due next."""
        one = lab(max_in_flight=2)
        order = sorted((A, B, C), key=one.first_due)
        one.watch(A, B, C)
        one.move_to(one.first_due(order[1]))
        one.probe.has_begun(2)
        one.probe.end(order[0])
        one.events.wait_for(1)
        one.move_to(one.first_due(order[2]))
        one.probe.has_begun(3)
        assert one.probe.probed[2] == order[2]


class TestFaults:
    """Nothing that a probe does ends the loop."""

    def test_a_probe_that_raises(self, caplog: pytest.LogCaptureFixture) -> None:
        """A fault of our own is an unknown outcome with its name, logged with its place, and the loop goes on."""
        events, faults = Events(), iter([ValueError("http://a/?token=canary"), MemoryError()])
        target = make_target(interval=0.01)

        def probe(_target: Target, _lag: float) -> ProbeResult:
            for fault in faults:
                raise fault
            return make_result(target, make_hop())

        scheduler = Scheduler(probe, events, max_in_flight=2, wall=lambda: WALL)
        scheduler.set_targets([target])
        made = [event.result for event in events.wait_for(6) if isinstance(event, Probed)]
        scheduler.stop()
        join(probing_threads())
        assert [(result.failure, result.detail, result.started_at) for result in made[:2]] == [
            (FailureReason.INTERNAL_ERROR, "ValueError", WALL),
            (FailureReason.INTERNAL_ERROR, "MemoryError", WALL),
        ]
        assert made[2] == make_result(target, make_hop())
        logged = [record.getMessage() for record in caplog.records]
        assert [message.splitlines()[0] for message in logged] == [
            f"probe of {target.display_url} raised ValueError",
            f"probe of {target.display_url} raised MemoryError",
        ]
        assert all("test_scheduler.py" in message for message in logged)
        assert "canary" not in caplog.text

    def test_the_system_refuses_a_thread(
        self, lab, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
    ) -> None:
        """With no more threads to be had the ones there are go on, what they miss counts, and the log says so once."""
        one = lab()
        order = sorted((A, B, C), key=one.first_due)
        one.watch(A, B, C)
        started = one.scheduler._threads
        monkeypatch.setattr(threading.Thread, "start", _refused)
        one.move_to(one.first_due(order[0]))
        one.probe.has_begun(1)
        one.move_to(one.first_due(order[2]) + 20.0)
        for target in order:
            one.probe.end(target)
        one.probe.has_begun(3)
        assert started == 1
        assert one.probe.probed[:3] == order
        assert [r.getMessage() for r in caplog.records][:1] == ["cannot start another probing thread; 1 are running"]
        assert one.scheduler._threads == 1

    def test_the_warning_is_not_repeated_for_each_probe(
        self, lab, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
    ) -> None:
        """While the system refuses threads it is asked, and complained about, once a second."""
        one = lab()
        one.watch(A, B, C)
        monkeypatch.setattr(threading.Thread, "start", _refused)
        one.probe.open()
        one.move_to(max(map(one.first_due, one.targets)))
        one.events.wait_for(3)
        assert len(caplog.records) == 1

    def test_no_thread_at_all(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """When not even the first thread can be had, whoever set the targets is told."""
        scheduler = Scheduler(HeldProbe(), Events(), max_in_flight=2)
        monkeypatch.setattr(threading.Thread, "start", _refused)
        with pytest.raises(RuntimeError, match="can't start new thread"):
            scheduler.set_targets([A])


def _refused(_thread: threading.Thread) -> None:
    raise RuntimeError("can't start new thread")


class TestStopping:
    """A stop is at once."""

    def test_hanging_probes_are_not_waited_for(self, lab) -> None:
        """A stop takes no time while probes hang; each of them counts as skipped, and nothing is delivered later."""
        one = lab(max_in_flight=50)
        one.watch(*(make_target(str(number), interval=10.0) for number in range(50)))
        one.move_to(5010.0)
        one.probe.has_begun(50)
        began = time.perf_counter()
        one.scheduler.stop()
        assert time.perf_counter() - began < 0.1
        after = list(one.events.all)
        assert sorted(event.target_id for event in after) == sorted(target.id for target in one.targets)
        assert {(event.reason, event.count) for event in after} == {(SkipReason.SHUTDOWN, 1)}
        one.probe.open()
        join(probing_threads())
        assert one.events.all == after
        assert one.scheduler.in_flight == 0

    def test_idle_threads_end_at_once(self, lab) -> None:
        """A stop ends the threads that wait for something to do."""
        one = lab()
        one.watch(A, B)
        one.probe.open()
        one.move_to(5010.0)
        one.events.wait_for(2)
        one.scheduler.stop()
        join(probing_threads())
        one.scheduler.stop()

    def test_nothing_is_begun_after_a_stop(self, lab) -> None:
        """Targets that are set after a stop are not probed."""
        one = lab()
        one.scheduler.stop()
        one.watch(A)
        one.move_to(one.first_due(A))
        join(probing_threads())
        assert one.probe.probed == []

    def test_every_probe_is_delivered_once(self) -> None:
        """However a stop falls, each probe is delivered or counts as skipped, and all before the stop is over."""
        for _ in range(100):
            trace = Trace(duration=lambda: 0.0)
            scheduler = trace.scheduler(max_in_flight=8)
            scheduler.set_targets([make_target(str(number), interval=0.002) for number in range(20)])
            trace.events.wait_for(5)
            scheduler.stop()
            delivered = len(trace.events.all)
            join(probing_threads())
            assert len(trace.events.all) == delivered
            assert trace.problems() == []


class TestChangingTargets:
    """The set of targets may change at any time."""

    def test_unchanged_targets_keep_their_places(self, lab) -> None:
        """Adding and removing targets does not move the others, and a removed one is probed no more."""
        one = lab()
        one.probe.open()
        one.watch(A, B)
        one.clock.now += 3.0
        one.watch(A, C)
        dues = {A: one.first_due(A), C: 5000.0 + phase(C, WALL) + 3.0}
        for number, target in enumerate(sorted(dues, key=dues.__getitem__), 1):
            one.move_to(dues[target])
            one.events.wait_for(number)
        assert sorted(map(repr, one.events.wait_for(2))) == sorted(map(repr, (probed(A), probed(C))))

    def test_a_removed_target_s_probe_is_forgotten(self, lab) -> None:
        """What a probe of a removed target finds is not delivered, and a stop does not count it either."""
        one = lab()
        one.watch(A, B)
        one.move_to(5010.0)
        one.probe.has_begun(2)
        one.watch(B)
        assert one.scheduler.in_flight == 1
        one.probe.end(A)
        one.probe.end(B)
        (only,) = one.events.wait_for(1)
        assert only.result.target_id == B.id
        one.scheduler.stop()
        join(probing_threads())
        assert one.events.all == [only]

    def test_changed_settings_count_from_the_next_probe(self, lab) -> None:
        """A target whose settings change is never probed twice at once: the probe under way ends as it began."""
        one = lab()
        one.watch(A)
        due = one.first_due(A)
        one.move_to(due)
        one.probe.has_begun(1)
        changed = make_target(A.url, interval=10.0, timeout=1.0)
        one.watch(changed)
        one.move_to(due + 9.0)
        one.probe.end(A)
        assert one.events.wait_for(1) == [probed(A)]
        one.move_to(due + 10.0)
        one.probe.has_begun(2)
        assert [target.timeout for target in one.probe.probed] == [A.timeout, 1.0]

    @pytest.mark.parametrize("in_flight", [False, True])
    def test_a_changed_interval_makes_a_new_grid(self, lab, in_flight: bool) -> None:
        """A new interval takes effect at once, on the grid that a fresh start would lay."""
        one = lab()
        one.probe.open() if not in_flight else None
        one.watch(A)
        if in_flight:
            one.move_to(one.first_due(A))
            one.probe.has_begun(1)
        changed = make_target(A.url, interval=4.0)
        now = one.clock.now
        one.watch(changed)
        one.probe.open()
        before = len(one.events.wait_for(in_flight))
        one.move_to(now + phase(changed, WALL))
        assert one.events.wait_for(before + 1)[before:] == [probed(changed)]


class TestThreads:
    """Threads, and the libcurl handles they hold, are few."""

    def test_quick_targets_need_few_threads(self) -> None:
        """A fleet of quick targets keeps a handful of threads warm, not one for each target."""
        trace = Trace(duration=lambda: 0.0)
        scheduler = trace.scheduler(max_in_flight=500)
        scheduler.set_targets([make_target(str(number), interval=0.2) for number in range(50)])
        trace.events.wait_for(250)
        scheduler.stop()
        join(probing_threads())
        assert trace.most_threads <= min(trace.most_in_flight + 2, 40)

    def test_a_busy_machine_needs_no_more(self) -> None:
        """When threads wait long for their turn, no others are started that would wait as well."""
        trace = Trace(duration=lambda: 0.0)
        scheduler = trace.scheduler(max_in_flight=500)
        over = threading.Event()
        others = [threading.Thread(target=_spin, args=(over,)) for _ in range(3)]
        for other in others:
            other.start()
        scheduler.set_targets([make_target(str(number), interval=0.2) for number in range(50)])
        trace.events.wait_for(100)
        scheduler.stop()
        over.set()
        join([*others, *probing_threads()])
        assert trace.most_threads <= trace.most_in_flight + 2

    def test_idle_threads_end(self) -> None:
        """After a burst the threads that are not needed any more end by themselves."""
        clock, probe, events = Clock(), HeldProbe(), Events()
        scheduler = Scheduler(probe, events, max_in_flight=20, idle_seconds=0.05, monotonic=clock, wall=lambda: WALL)
        targets = [make_target(str(number), interval=10.0) for number in range(20)]
        scheduler.set_targets(targets)
        clock.now += 10.0
        scheduler.set_targets(targets)
        probe.has_begun(20)
        burst = probing_threads()
        assert len(burst) == 20
        probe.open()
        events.wait_for(20)
        deadline = time.monotonic() + PATIENCE
        while len(left := probing_threads()) > 1 and time.monotonic() < deadline:
            left[0].join(0.02)
            left[-1].join(0.02)
        assert len(left) == 1
        probe.close()
        clock.now += 10.0
        scheduler.set_targets(targets)
        probe.has_begun(40)
        scheduler.stop()
        probe.open()
        join(probing_threads())

    def test_the_latest_idle_thread_goes_first(self, lab) -> None:
        """After a burst the same few threads do the work, so that the others can end and the few stay warm."""
        one = lab(max_in_flight=20)
        one.watch(A, *(make_target(str(number), interval=10.0) for number in range(19)))
        one.move_to(5010.0)
        one.probe.has_begun(20)
        for target in one.targets:
            one.probe.end(target)
        one.events.wait_for(20)
        one.watch(A)
        for number in range(1, 21):
            one.move_to(5010.0 + 10.0 * number)
            one.probe.has_begun(20 + number)
            one.probe.end(A)
            one.events.wait_for(20 + number)
        assert len(set(one.probe.threads[:20])) == 20
        assert len(set(one.probe.threads[20:])) <= 4

    def test_threads_are_bounded(self, lab) -> None:
        """There are never more threads, and so probes in flight, than allowed."""
        one = lab(max_in_flight=3)
        one.watch(*(make_target(str(number), interval=10.0) for number in range(10)))
        one.move_to(5010.0)
        one.probe.has_begun(3)
        one.move_to(5012.0)
        assert len(probing_threads()) == one.scheduler.in_flight == len(one.probe.probed) == 3


def _spin(over: threading.Event) -> None:
    while not over.is_set():
        pass


class Trace:
    """Checks, probe by probe, that every place on every grid was probed or counted as skipped."""

    def __init__(self, duration: Callable[[], float]) -> None:
        self.events = Events()
        self.dues: dict[str, list[float]] = defaultdict(list)
        self.handled: Counter[str] = Counter()
        self.begun = 0
        self.most_in_flight = 0
        self.most_threads = 0
        self._scheduler: Scheduler | None = None
        self._duration = duration
        self._intervals: dict[str, float] = {}
        self._own = threading.local()
        self._lock = threading.Lock()
        self._in_flight: Counter[str] = Counter()
        self._problems: list[str] = []

    def scheduler(self, max_in_flight: int) -> Scheduler:
        self._scheduler = Scheduler(self.probe, self.deliver, max_in_flight=max_in_flight, monotonic=self.clock)
        return self._scheduler

    def clock(self) -> float:
        """The clock is read under the scheduler's lock, and just before a probe is begun or another thread started."""
        self.most_in_flight = max(self.most_in_flight, self._scheduler.in_flight + 1)
        self.most_threads = max(self.most_threads, self._scheduler._threads)
        self._own.now = time.monotonic()
        return self._own.now

    def probe(self, target: Target, _lag: float) -> ProbeResult:
        self._own.began = self._own.now
        with self._lock:
            self.begun += 1
            self._in_flight[target.id] += 1
            self._intervals[target.id] = target.interval
            if self._in_flight[target.id] > 1:
                self._problems.append(f"{target.url} is probed twice at once")
        if duration := self._duration():
            time.sleep(duration)  # what a slow target does
        with self._lock:
            self._in_flight[target.id] -= 1
        return make_result(target, make_hop())

    def deliver(self, event: Probed | Skipped) -> None:
        with self._lock:
            if isinstance(event, Probed):
                target_id = event.result.target_id
                due = self._own.began - event.lag
                dues = self.dues[target_id]
                dues.append(due)
                expected = dues[0] + self.handled[target_id] * self._intervals[target_id]
                # The first probe's skips came before it and say nothing of the place of the first due time.
                if len(dues) == 1:
                    self.handled[target_id] = 0
                elif abs(due - expected) > 1e-6:
                    self._problems.append(f"{target_id} was due at {expected}, probed for {due}")
                self.handled[target_id] += 1
            else:
                self.handled[event.target_id] += event.count
        self.events(event)

    def problems(self) -> list[str]:
        shutdowns = sum(isinstance(e, Skipped) and e.reason is SkipReason.SHUTDOWN for e in self.events.all)
        probes = sum(isinstance(event, Probed) for event in self.events.all)
        lost = [] if probes + shutdowns == self.begun else [f"{self.begun} begun, {probes} + {shutdowns} delivered"]
        return self._problems + lost


@pytest.mark.parametrize(
    ("max_in_flight", "longest"), [(400, 0.02), (20, 0.03), (2, 0.01)], ids=["ample", "tight", "starved"]
)
def test_no_place_is_lost_under_stress(max_in_flight: int, longest: float) -> None:
    """With 200 targets at short intervals, every due probe is made or counted, whether threads are ample or scarce."""
    dice = random.Random(7)
    trace = Trace(duration=lambda: dice.random() * longest)
    targets = [make_target(str(number), interval=dice.uniform(0.05, 0.25)) for number in range(200)]
    scheduler = trace.scheduler(max_in_flight)
    end = time.monotonic() + 1.5
    count = 0
    while time.monotonic() < end:
        scheduler.set_targets(dice.sample(targets, len(targets)))
        count += 50
        trace.events.wait_for(count)
    reached = {target.id: trace.dues[target.id][0] + trace.handled[target.id] * target.interval for target in targets}
    scheduler.stop()
    stopped = time.monotonic()
    join(probing_threads())
    assert trace.problems() == []
    assert len(trace.dues) == len(targets)
    assert min(reached.values()) > stopped - 1.0
    assert trace.most_threads <= min(trace.most_in_flight + 2, max_in_flight)
