"""A small pool of native threads, written as LLVM IR over pthreads: it wakes in microseconds and never holds the GIL.

The caller publishes a job as a *ticket*, one 64-bit word: the generation in the upper half, the number of workers that
nobody has taken yet in the lower. A thread takes a worker by decrementing the ticket with compare-and-swap; since the
word changes with every job, a thread that comes late can never take part of the wrong one. The caller takes workers
too, so that it needs nobody's help: with no thread awake, or none at all, the job still finishes.

Idle threads watch the ticket for a moment (`spins`), then sleep on a condition variable. A sleeper counts itself before
it looks at the ticket for the last time, and the caller writes the ticket before it reads the count; both are
sequentially consistent, so one of the two always sees the other and no wake-up is lost.

On Linux the caller keeps sleeping threads off its own processor before it wakes them (`apart`). A virtual machine's kernel takes a
processor that sleeps for one that the host has taken away, and lets a woken thread queue behind its waker: for milliseconds, in which
one processor does the work of two.
"""

from __future__ import annotations

SYMBOLS = ("attnc_pool_pause", "attnc_pool_setup", "attnc_pool_grow", "attnc_pool_run")

# Byte offsets in the pool. What is written by different threads lies on different cache lines; pthread objects get
# 128 bytes each, more than any libc uses.
PLACES = {
    "ticket": 0, "pending": 64, "sleeping": 128, "function": 192, "args": 200, "spins": 208, "avoided": 216, "mutex": 256,
    "work": 384, "done": 512, "known": 640, "mask": 704, "threads": 832,
}  # fmt: skip
KNOWN = 1024  # threads that can be kept off a processor
SIZE = PLACES["threads"] + 4 * KNOWN
AFFINITY = ("sched_getcpu", "sched_getaffinity", "sched_setaffinity", "gettid")  # what that needs of the C library

PAUSE = {"x86_64": "llvm.x86.sse2.pause()", "aarch64": "llvm.aarch64.hint(i32 1)", "arm64": "llvm.aarch64.hint(i32 1)"}


def source(machine: str, affinity: bool) -> str:
    """The pool's LLVM module for a processor called `machine` (as in `platform.machine()`). affinity: whether the C library has AFFINITY."""
    pause = f"call void @{PAUSE[machine]}" if machine in PAUSE else ""
    declared = f"declare void @{PAUSE[machine].replace('i32 1', 'i32')}" if machine in PAUSE else ""
    text = TEMPLATE + (APART if affinity else "")
    for name, offset in PLACES.items():
        text = text.replace(f"<{name}>", f"getelementptr i8, ptr %pool, i64 {offset}")
    for mark, call in (("<apart>", "call void @apart(ptr %pool)"), ("<register>", "call void @register(ptr %pool)")):
        text = text.replace(mark, call if affinity else "")
    return text.replace("<pause>", pause) + declared


APART = f"""
declare i32 @sched_getcpu()
declare i32 @sched_getaffinity(i32, i64, ptr)
declare i32 @sched_setaffinity(i32, i64, ptr)
declare i32 @gettid()

; A pool thread makes itself known.
define internal void @register(ptr %pool) {{
entry:
  %avoided = <avoided>
  %known = <known>
  %threads = <threads>
  %number = atomicrmw add ptr %known, i64 1 seq_cst, align 8
  %fits = icmp slt i64 %number, {KNOWN}
  br i1 %fits, label %note, label %out
note:
  %me = call i32 @gettid()
  %place = getelementptr i32, ptr %threads, i64 %number
  store atomic i32 %me, ptr %place seq_cst, align 4
  store atomic i64 -1, ptr %avoided seq_cst, align 8   ; the next caller sees to it, unless one has seen it just now
  br label %out
out:
  ret void
}}

; Lets the pool's threads run where the caller may, except on the processor that it runs on. Nothing to do where that is the one of
; last time. If there is no other, or the system refuses, all stays as it was.
define internal void @apart(ptr %pool) {{
entry:
  %avoided = <avoided>
  %mask = <mask>
  %known = <known>
  %threads = <threads>
  %cpu = call i32 @sched_getcpu()
  %here = sext i32 %cpu to i64
  %before = load atomic i64, ptr %avoided seq_cst, align 8
  %same = icmp eq i64 %here, %before
  %strange = icmp uge i64 %here, 1024
  %skip = or i1 %same, %strange
  br i1 %skip, label %out, label %ask
ask:
  store atomic i64 %here, ptr %avoided seq_cst, align 8
  %answer = call i32 @sched_getaffinity(i32 0, i64 128, ptr %mask)
  %refused = icmp slt i32 %answer, 0
  br i1 %refused, label %out, label %clear
clear:
  %word = lshr i64 %here, 6
  %bit = and i64 %here, 63
  %one = shl i64 1, %bit
  %others = xor i64 %one, -1
  %place = getelementptr i64, ptr %mask, i64 %word
  %all = load i64, ptr %place
  %rest = and i64 %all, %others
  store i64 %rest, ptr %place
  %made = load atomic i64, ptr %known seq_cst, align 8
  %few = icmp slt i64 %made, {KNOWN}
  %count = select i1 %few, i64 %made, i64 {KNOWN}
  br label %look
look:
  %number = phi i64 [0, %clear], [%next, %moved]
  %end = icmp sge i64 %number, %count
  br i1 %end, label %out, label %read
read:
  %at = getelementptr i32, ptr %threads, i64 %number
  %thread = load atomic i32, ptr %at seq_cst, align 4
  %absent = icmp eq i32 %thread, 0               ; 0 would mean the caller
  br i1 %absent, label %moved, label %move
move:
  call i32 @sched_setaffinity(i32 %thread, i64 128, ptr %mask)
  br label %moved
moved:
  %next = add i64 %number, 1
  br label %look
out:
  ret void
}}
"""

TEMPLATE = """
declare i32 @pthread_create(ptr, ptr, ptr, ptr)
declare i32 @pthread_detach(ptr)
declare i32 @pthread_mutex_init(ptr, ptr)
declare i32 @pthread_mutex_lock(ptr)
declare i32 @pthread_mutex_unlock(ptr)
declare i32 @pthread_cond_init(ptr, ptr)
declare i32 @pthread_cond_wait(ptr, ptr)
declare i32 @pthread_cond_signal(ptr)

; Watches for `turns` turns, to be timed: a pause takes 1 to 150 cycles, depending on the processor.
define void @attnc_pool_pause(ptr %pool, i64 %turns) {
entry:
  %ticket = <ticket>
  br label %again
again:
  %turn = phi i64 [0, %entry], [%next, %again]
  %seen = load atomic i64, ptr %ticket acquire, align 8
  <pause>
  %next = add i64 %turn, 1
  %patient = icmp slt i64 %next, %turns
  br i1 %patient, label %again, label %out
out:
  ret void
}

; Prepares a zeroed pool.
define void @attnc_pool_setup(ptr %pool, i64 %spin) {
  %mutex = <mutex>
  %work = <work>
  %done = <done>
  %spins = <spins>
  store i64 %spin, ptr %spins
  call i32 @pthread_mutex_init(ptr %mutex, ptr null)
  call i32 @pthread_cond_init(ptr %work, ptr null)
  call i32 @pthread_cond_init(ptr %done, ptr null)
  ret void
}

; Adds `count` threads; returns how many the system granted.
define i64 @attnc_pool_grow(ptr %pool, i64 %count) {
entry:
  %thread = alloca ptr
  br label %next
next:
  %made = phi i64 [0, %entry], [%more, %created]
  %enough = icmp sge i64 %made, %count
  br i1 %enough, label %out, label %create
create:
  %error = call i32 @pthread_create(ptr %thread, ptr null, ptr @serve, ptr %pool)
  %failed = icmp ne i32 %error, 0
  br i1 %failed, label %out, label %created
created:
  %handle = load ptr, ptr %thread
  call i32 @pthread_detach(ptr %handle)
  %more = add i64 %made, 1
  br label %next
out:
  ret i64 %made
}

; Runs function(args, worker) for every worker below `workers`, and returns when all have returned.
define void @attnc_pool_run(ptr %pool, ptr %code, i64 %block, i64 %workers) {
entry:
  %ticket = <ticket>
  %pending = <pending>
  %sleeping = <sleeping>
  %function = <function>
  %args = <args>
  %spins = <spins>
  %mutex = <mutex>
  %work = <work>
  %done = <done>
  store atomic ptr %code, ptr %function monotonic, align 8
  store atomic i64 %block, ptr %args monotonic, align 8
  store atomic i64 %workers, ptr %pending monotonic, align 8
  %old = load atomic i64, ptr %ticket monotonic, align 8
  %generation = add i64 %old, 4294967296          ; the lower half is 0 between jobs
  %new = or i64 %generation, %workers
  store atomic i64 %new, ptr %ticket seq_cst, align 8
  %asleep = load atomic i64, ptr %sleeping seq_cst, align 8
  %none = icmp eq i64 %asleep, 0
  br i1 %none, label %help, label %wake
wake:
  %others = sub i64 %workers, 1
  %fewer = icmp slt i64 %asleep, %others
  <apart>
  %count = select i1 %fewer, i64 %asleep, i64 %others
  call i32 @pthread_mutex_lock(ptr %mutex)        ; whoever counted itself waits by now, or sees the ticket
  call i32 @pthread_mutex_unlock(ptr %mutex)      ; before the signals: a woken thread finds the mutex free
  br label %signal
signal:
  %left = phi i64 [%count, %wake], [%rest, %one]
  %woken = icmp eq i64 %left, 0
  br i1 %woken, label %help, label %one
one:
  call i32 @pthread_cond_signal(ptr %work)
  %rest = sub i64 %left, 1
  br label %signal
help:
  call void @take(ptr %pool)
  %spin = load i64, ptr %spins
  br label %watch
watch:
  %turn = phi i64 [0, %help], [%turns, %again]
  %unfinished = load atomic i64, ptr %pending acquire, align 8
  %finished = icmp eq i64 %unfinished, 0
  br i1 %finished, label %out, label %again
again:
  <pause>
  %turns = add i64 %turn, 1
  %patient = icmp slt i64 %turns, %spin
  br i1 %patient, label %watch, label %sleep
sleep:
  call i32 @pthread_mutex_lock(ptr %mutex)
  br label %check
check:
  %running = load atomic i64, ptr %pending acquire, align 8
  %over = icmp eq i64 %running, 0
  br i1 %over, label %leave, label %wait
wait:
  call i32 @pthread_cond_wait(ptr %done, ptr %mutex)
  br label %check
leave:
  call i32 @pthread_mutex_unlock(ptr %mutex)
  br label %out
out:
  ret void
}

; Takes workers of the present job, one after the other, until none is left.
define internal void @take(ptr %pool) {
entry:
  %ticket = <ticket>
  %pending = <pending>
  %function = <function>
  %args = <args>
  %mutex = <mutex>
  %done = <done>
  br label %look
look:
  %seen = load atomic i64, ptr %ticket acquire, align 8
  %free = and i64 %seen, 4294967295
  %empty = icmp eq i64 %free, 0
  br i1 %empty, label %out, label %try
try:
  ; If the exchange succeeds, the job was unfinished all the while, and these two belong to it.
  %code = load atomic ptr, ptr %function monotonic, align 8
  %block = load atomic i64, ptr %args monotonic, align 8
  %less = sub i64 %seen, 1
  %exchange = cmpxchg ptr %ticket, i64 %seen, i64 %less seq_cst monotonic, align 8
  %taken = extractvalue {i64, i1} %exchange, 1
  br i1 %taken, label %do, label %look
do:
  %worker = sub i64 %free, 1
  call void %code(i64 %block, i64 %worker)
  %before = atomicrmw sub ptr %pending, i64 1 acq_rel, align 8
  %last = icmp eq i64 %before, 1
  br i1 %last, label %tell, label %look
tell:
  call i32 @pthread_mutex_lock(ptr %mutex)
  call i32 @pthread_mutex_unlock(ptr %mutex)
  call i32 @pthread_cond_signal(ptr %done)
  br label %look
out:
  ret void
}

; The life of a pool thread.
define internal ptr @serve(ptr %pool) {
entry:
  %ticket = <ticket>
  %sleeping = <sleeping>
  %spins = <spins>
  %mutex = <mutex>
  %work = <work>
  %spin = load i64, ptr %spins
  <register>
  br label %begin
begin:
  call void @take(ptr %pool)
  br label %watch
watch:
  %turn = phi i64 [0, %begin], [%turns, %again]
  %seen = load atomic i64, ptr %ticket acquire, align 8
  %free = and i64 %seen, 4294967295
  %empty = icmp eq i64 %free, 0
  br i1 %empty, label %again, label %begin
again:
  <pause>
  %turns = add i64 %turn, 1
  %patient = icmp slt i64 %turns, %spin
  br i1 %patient, label %watch, label %rest
rest:
  call i32 @pthread_mutex_lock(ptr %mutex)
  atomicrmw add ptr %sleeping, i64 1 seq_cst, align 8
  br label %check
check:
  %now = load atomic i64, ptr %ticket seq_cst, align 8
  %open = and i64 %now, 4294967295
  %idle = icmp eq i64 %open, 0
  br i1 %idle, label %wait, label %wake
wait:
  call i32 @pthread_cond_wait(ptr %work, ptr %mutex)
  br label %check
wake:
  atomicrmw sub ptr %sleeping, i64 1 seq_cst, align 8
  call i32 @pthread_mutex_unlock(ptr %mutex)
  br label %begin
}
"""
