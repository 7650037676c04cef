/* claim.pml - hold, move, stamp: the protocol of one task id x, as src/fastclaim has it, for spin.
 *
 * How to run it and what came out: README.md here. The code that it follows, step by step:
 * _transition_py.py (hold, move, stamp), claiming.py (fast), finishing.py (the endings of fast),
 * recovery.py (rec), publishing.py (publish), and TaskPool of the original (orig).
 *
 * WHAT IS MODELLED
 *   names    available/x.json (AV), claimed/x_<agent>.json (CL), completed/x_complete.json (CP),
 *            temporary files (TMP, one at a time for each process; no name comes twice),
 *            available/x.lock (lockpath), owners/<owner>.owner (ofile)
 *   inodes   state (st), whose stamp (tok, 0: nobody's), which publication (pub), size and mtime
 *            (ver: a write by anybody but us changes it), whether it is a document of ours (own),
 *            who has it flocked (fl). A number is used again when nothing names it or has it open.
 *   steps    Each system call on one of these is one step, `atomic { DIE; ... }`: a process may die
 *            before any of them. The kernel then drops its locks one by one, in any order.
 *            All flocks are LOCK_NB; after BUSY a process tries again or gives up, at any time.
 *   fast     claims once; then it completes the claim, releases it, or just lives on
 *   orig     the original, unchanged: claims once; then completes the claim or just lives on
 *   rec      one pass of recovery: recover() or the pass of a claimer that found nothing
 *   publish  publishes x again, at any time
 *   at the end every fast one is killed, a claimer that finds nothing looks (NEXT is checked), then
 *   recover() runs (STUCK is checked)
 *
 * SWITCHES (-D)
 *   NF NO NR     how many fast, orig, rec (default 2 0 1; NF+NO <= 4)
 *   PASS=1 2     rec is a claimer that found nothing (1) or recover() (2); default: either
 *   LF=mask      which fast ones use lock files: bit 0 the first (default: all beside an orig, else
 *                none); rec does if any does
 *   FOREIGN      x was published by an original: claims replace the document
 *   REWRITE      completions and releases replace the document (a long result, not_before, fail)
 *   SAMEAGENT    all fast ones are processes of one agent
 *   LEASE        any claim's lease may be past whenever a rec looks
 *   REPUB=n      x is published once more: 1 ours, by rename; 2 ours, by exchange (durability
 *                "full"); 3 by an original, in place: truncated, written later; 4 the same, but the
 *                kernel looks the name up one step before it truncates
 *   NOCRASH      nobody dies             NORCRASH   rec and publish do not die
 *   MAXDIE=n     at most n processes die                NOTIMEOUT  orig waits for its lock for ever
 *   NI=n         inode numbers + 1 (default 9; an assertion says if they do not suffice)
 *   NOLINKS      no look at the link count after a flock: slower, and harmless
 * BROKEN ON PURPOSE: each must be found out; README.md says by which fleet
 *   NOHOLD       tasks are not flocked                  NOCOMPARE  no comparison after the move
 *   NOVERIFY     no look whether the name is what was flocked
 *   NOARBITER    a claim that lost the rename stamps and goes on
 *   STAMPFIRST   a claim stamps before it moves         MOVEFIRST  a completion moves, then stamps
 *   REPLACE      a move to available/ replaces what is there
 *   UNLINK       recovery unlinks a half claim when available/ is occupied
 *   NOOWNER      recovery takes every owner for dead
 *   ONLOOK       recovery acts on its look, without a hold
 *   ANYTOKEN     a completion does not ask whose claim it is
 *   TMPUNHELD    a temporary file is used also if somebody else has flocked it
 *   BACKONCE     what has to be given back is left where it is if somebody holds it just then
 *   FORGETHALF   owner files of the dead go although half a claim could not be seen to
 *   FORGETALL    recover() removes owner files of those who died after it looked at the claims, too
 *
 * PROPERTIES (all are checked always; -DNO_x leaves x out)
 *   ONE    no two live processes have been told that they have the same publication
 *   LOST   each publication is named by one of AV, CL, CP, or another has taken its place
 *   EXACT  a publication is named by only one of them (with NO=0)
 *   CLEAN  nothing in available/ says that it is claimed or completed; what is in completed/ says
 *          that it is completed
 *   LIVE   recovery takes no claim from a live owner, but for a past lease
 *   MINE   a live holder's claim stands, stamped by it, but for a past lease or a newer claim of
 *          the same agent; it is not told that it has lost it
 *   ONCE   a publication is completed once, by its holder or in its name; it is available to
 *          nobody then, and its result stays
 *   GIVEN  at the end, if nobody died: no half claim, unless available/ is occupied
 *   NEXT   after the look of one claimer that found nothing no claim of the dead is left, unless
 *          available/ is occupied and an owner file of the dead still asks for another look
 *   STUCK  after recover(): x waits, is completed, or is claimed by an original, and no claim of
 *          the dead is left, unless available/ is occupied
 */
#ifndef NF
#define NF 2
#endif
#ifndef NO
#define NO 0
#endif
#ifndef NR
#define NR 1
#endif
#ifndef LF
#if NO
#define LF 15
#else
#define LF 0
#endif
#endif
#ifndef NI
#define NI 9
#endif
#ifdef REPUB
#define NPUB 1
#else
#define NPUB 0
#endif
#define NP (NF+NO)              /* claimers, and agents */
#define PB (NP+NR)              /* the publisher's number */
#define RP (NP+NR+NPUB)         /* the number of the recovery at the end */
#define NX (NP+NR+NPUB+1)
#ifdef SAMEAGENT
#define ME 0
#else
#define ME p
#endif

#define AVAIL 0
#define CLAIMED 1
#define COMPLETED 2
#define TORN 3

byte AV = 1, CP, CL[NP], TMP[NX];
byte st[NI], tok[NI], pub[NI], ver[NI], fl[NI]; bool own[NI];
byte fd[NX], fo[NX], tf[NX];    /* open: the task, an old claim, the temporary file */
byte sweeping[NX];              /* which rec have opened this temporary file by its present name */
byte lockpath, lfd[NX], holder[NX+1];
bool up[NF], alive[NF], ofile[NF];      /* runs; its owner file is still flocked; and is there */
byte has[NP];                   /* the publication that it has been told it has */
bool taken[NF];                 /* its lease was past, or a newer claim of its agent replaced it */
bool gone[3], comp[3];          /* publications: superseded; completed */
bool told[NP];                  /* an orig that was told {} */
byte npub = 1, done, died;
hidden byte n, m, v, yes;

/* Bookkeeping -------------------------------------------------------------------------------- */

inline inuse(i) {
	n = 0; yes = (i == AV || i == CP);
	do :: n < NX -> yes = yes || fd[n] == i || fo[n] == i || tf[n] == i || TMP[n] == i; n++
	   :: else -> break od;
	n = 0;
	do :: n < NP -> yes = yes || CL[n] == i; n++ :: else -> break od
}
inline tidy() {                 /* what nobody can reach any more is all alike */
	v = 1;
	do
	:: v < NI -> inuse(v);
		if :: !yes -> st[v] = 0; tok[v] = 0; pub[v] = 0; ver[v] = 0; fl[v] = 0; own[v] = false
		   :: else fi; v++
	:: else -> break
	od;
	v = 0; n = 0; yes = false
}
inline newinode() {             /* the lowest free number, into v */
	tidy(); v = 1; inuse(v);
	do :: yes -> v++; assert(v < NI); inuse(v) :: else -> break od;
	n = 0
}
inline named(i) {               /* its link count is not 0 */
	n = 0; yes = (i == AV || i == CP);
	do :: n < NX -> yes = yes || TMP[n] == i; n++ :: else -> break od;
	n = 0;
	do :: n < NP -> yes = yes || CL[n] == i; n++ :: else -> break od
}
inline check() {
	d_step {
	tidy();
	v = 1;
	do
	:: v <= npub ->         /* m: how many names this publication has */
		m = (AV && pub[AV] == v) + (CP && pub[CP] == v); n = 0;
		do :: n < NP -> m = m + (CL[n] && pub[CL[n]] == v); n++ :: else -> break od;
#ifndef NO_LOST
		assert(m > 0 || gone[v]);                       /* LOST */
#endif
#if NO == 0 && !defined(NO_EXACT)
		assert(m <= 1);                                 /* EXACT */
#endif
#ifndef NO_ONCE
		assert(!comp[v] || gone[v] || (CP && pub[CP] == v));    /* ONCE */
		assert(!comp[v] || !AV || pub[AV] != v);                /* ONCE */
#endif
		m = 0; n = 0;
		do
		:: n < NP -> if :: has[n] == v -> m++ :: else fi; n++
		:: else -> break
		od;
#ifndef NO_ONE
		assert(m <= 1);                                 /* ONE */
#endif
		v++
	:: else -> break
	od;
#ifndef NO_CLEAN
	assert(!AV || st[AV] == AVAIL || st[AV] == TORN);       /* CLEAN */
	assert(!CP || st[CP] == COMPLETED);                     /* CLEAN */
#endif
#ifndef NO_MINE
	n = 0;
	do
	:: n < NF ->
#ifdef SAMEAGENT
		m = CL[0];
#else
		m = CL[n];
#endif
		assert(!has[n] || (m && tok[m] == n+1));        /* MINE */
		n++
	:: else -> break
	od;
#endif
	n = 0; m = 0; v = 0; yes = false
	}
}
inline complete(i) {            /* completed/ names inode i from now on */
#ifndef NO_ONCE
	assert(!comp[pub[i]]);          /* ONCE */
#endif
	comp[pub[i]] = true;
	if :: CP && pub[CP] != pub[i] -> gone[pub[CP]] = true :: else fi;
	CP = i
}

/* Death -------------------------------------------------------------------------------------- */

#ifdef NOCRASH
#define DIE skip
#elif defined(MAXDIE)
#define DIE if :: true :: mortal && died < MAXDIE -> died++; goto dead fi
#else
#define DIE if :: true :: mortal -> died = 1; goto dead fi
#endif
#ifdef NORCRASH
#define OTHERS_DIE false
#else
#define OTHERS_DIE true
#endif
inline unlock(d) { d_step { if :: fl[d] == p+1 -> fl[d] = 0 :: else fi; d = 0; tidy() } }
inline unlock_x() { d_step { if :: holder[lfd[p]] == p+1 -> holder[lfd[p]] = 0 :: else fi; lfd[p] = 0 } }
inline drop_locks() {
	do
	:: atomic { p < NF && alive[p] -> alive[p] = false }
	:: atomic { lfd[p] -> unlock_x() }
	:: atomic { fd[p] -> unlock(fd[p]) }
	:: atomic { fo[p] -> unlock(fo[p]) }
	:: atomic { tf[p] -> unlock(tf[p]) }
	:: !(p < NF && alive[p]) && !lfd[p] && !fd[p] && !fo[p] && !tf[p] -> break
	od
}

/* Hold --------------------------------------------------------------------------------------- */

inline open_x() {               /* open(x.lock, O_CREAT) */
	d_step {
		if
		:: lockpath == 0 -> m = 1; yes = true;
			do
			:: yes -> n = 0; yes = false;
				do :: n < NX -> yes = yes || lfd[n] == m; n++ :: else -> break od;
				if :: yes -> m++ :: else fi
			:: else -> break
			od;
			lockpath = m
		:: else
		fi;
		lfd[p] = lockpath; n = 0; m = 0; yes = false
	}
}
#define TAKE_LOCK(busy) \
	do \
	:: atomic { DIE; open_x() }; \
	   atomic { DIE; if :: holder[lfd[p]] == 0 -> holder[lfd[p]] = p+1 :: else -> lfd[p] = 0; goto busy fi }; \
	   atomic { DIE; if :: lockpath == lfd[p] -> break :: else -> unlock_x() fi } \
	od
#ifdef NOHOLD
#define FLOCK(d, busy) skip
#else
#define FLOCK(d, busy) DIE; if :: fl[d] == 0 -> fl[d] = p+1 :: else -> d = 0; d_step { tidy() }; goto busy fi
#endif
#ifdef NOLINKS
#define FSTAT(d) seen = ver[d]; break
#else
#define FSTAT(d) DIE; named(d); if :: yes -> seen = ver[d]; yes = false; break :: else -> unlock(d) fi
#endif
/* open the name, flock it, look at its links, take the lock file */
#define HOLD(name, d, with_lock, busy, absent) \
	do \
	:: atomic { DIE; if :: name == 0 -> goto absent :: else -> d = name fi }; \
	   atomic { FLOCK(d, busy) }; \
	   atomic { FSTAT(d) } \
	od; \
	if :: with_lock -> TAKE_LOCK(busy) :: else fi
#ifdef NOVERIFY
#define VERIFY(name, d, busy, absent) skip
#else
#define VERIFY(name, d, busy, absent) \
	atomic { DIE; if :: name == d :: name == 0 -> goto absent :: name && name != d -> goto busy fi }
#endif
#ifdef TMPUNHELD
#define IF_SWEPT skip
#else
#define IF_SWEPT if :: fl[tf[p]] != p+1 -> atomic { DIE; TMP[p] = 0 } :: else fi
#endif
/* a new document under the temporary name, then its flock; taken for a dead one's, it is unlinked */
#define PREPARE(s, t) \
	atomic { DIE; d_step { newinode(); TMP[p] = v; tf[p] = v; sweeping[p] = 0; st[v] = s; tok[v] = t; pub[v] = mine; own[v] = true; v = 0 } }; \
	atomic { DIE; if :: fl[tf[p]] == 0 -> fl[tf[p]] = p+1 :: else fi }; \
	IF_SWEPT
/* unlink what is left of the temporary file, let go of it, of x.lock, of the task */
inline close_held() {
	if :: TMP[p] -> atomic { DIE; d_step { TMP[p] = 0; tidy() } } :: else fi;
	if :: tf[p] -> atomic { DIE; unlock(tf[p]) } :: else fi;
	if
	:: lfd[p] ->
		atomic { DIE; same = (lockpath == lfd[p]) };
		if :: same -> atomic { DIE; lockpath = 0; same = false } :: else fi;
		atomic { DIE; unlock_x() }
	:: else
	fi;
	if :: fd[p] -> atomic { DIE; unlock(fd[p]) } :: else fi;
	if :: fo[p] -> atomic { DIE; unlock(fo[p]) } :: else fi
}
/* renameat2(claimed -> available, RENAME_NOREPLACE) */
#ifdef REPLACE
#define MAY_MOVE_TO_AV true
#else
#define MAY_MOVE_TO_AV !AV
#endif
inline move_to_av(name) { d_step { AV = name; name = 0; check() } }
/* renameat2(temporary, name, RENAME_EXCHANGE) */
inline exchange(name) { m = TMP[p]; TMP[p] = name; name = m; m = 0 }

/* Claim, and what follows -------------------------------------------------------------------- */

proctype fast(byte p) {
	byte mine, seen; bool same, over, mortal = true;
again:
	HOLD(AV, fd[p], (LF >> p) & 1, busy, out);
	atomic {                                                /* read the sector */
		DIE; mine = pub[fd[p]];
		if
		:: own[fd[p]] && st[fd[p]] == AVAIL && ver[fd[p]] == seen
		:: else -> goto unproven
		fi
	}
#ifdef STAMPFIRST
	atomic { DIE; st[fd[p]] = CLAIMED; tok[fd[p]] = p+1; check() };
#endif
move:
	atomic {                                                /* the arbiter */
		DIE;
		if
#ifdef NOARBITER
		:: !AV -> goto stamp
#else
		:: !AV -> goto busy                             /* LOST: look for the directories, again */
#endif
		:: AV && CL[ME] && !over -> goto collision
		:: AV && (!CL[ME] || over) ->
			d_step {
				if
				:: CL[ME] ->                    /* the original replaces it, too */
					if :: pub[CL[ME]] != pub[AV] -> gone[pub[CL[ME]]] = true :: else fi;
					if :: tok[CL[ME]] -> has[tok[CL[ME]]-1] = 0; taken[tok[CL[ME]]-1] = true :: else fi
				:: else
				fi;
				CL[ME] = AV; AV = 0
			};
			check()
		fi
	}
#ifndef NOCOMPARE
	atomic {                                                /* lstat: what was read? */
		DIE;
		if
		:: CL[ME] == fd[p] && ver[fd[p]] == seen
		:: CL[ME] == 0 -> goto busy
		:: CL[ME] && (CL[ME] != fd[p] || ver[fd[p]] != seen) -> goto changed
		fi
	}
#endif
	if :: tf[p] -> goto replace :: else fi;
stamp:
	atomic {                                                /* pwrite: to the inode, wherever it is */
		DIE; d_step { st[fd[p]] = CLAIMED; tok[fd[p]] = p+1; has[p] = mine }; check()
	}
	goto won;
replace:
	atomic {
		DIE;
		if
		:: TMP[p] && CL[ME] -> d_step { exchange(CL[ME]); has[p] = mine }; check(); goto won
		:: else
		fi
	}
	atomic { DIE; same = (CL[ME] == fd[p]) };               /* the temporary file was swept: move back */
	if
	:: same -> same = false; atomic { DIE; if :: CL[ME] && MAY_MOVE_TO_AV -> move_to_av(CL[ME]) :: else fi }
	:: else
	fi;
	goto busy;

unproven:                                                       /* not ours, or not as we left it */
	VERIFY(AV, fd[p], busy, out);
parse:
	atomic { DIE; if :: st[fd[p]] == TORN || st[fd[p]] == CLAIMED -> goto out :: else -> mine = pub[fd[p]] fi };
	PREPARE(CLAIMED, p+1);
	goto move;

collision:                                                      /* over an old claim of this agent? */
	close_held();
	HOLD(CL[ME], fo[p], 0, busy, busy);
	VERIFY(CL[ME], fo[p], busy, busy);
	atomic { DIE; if :: st[fo[p]] == TORN -> goto out :: else fi };
	HOLD(AV, fd[p], (LF >> p) & 1, busy, out);
	VERIFY(AV, fd[p], busy, out);
	over = true;
	goto parse;

changed:                                                        /* give back what was moved unread */
	close_held();
back:
	HOLD(CL[ME], fd[p], (LF >> p) & 1, backbusy, busy);
	VERIFY(CL[ME], fd[p], backbusy, busy);
	atomic { DIE; if :: st[fd[p]] == CLAIMED || st[fd[p]] == COMPLETED -> goto busy :: else fi };
	atomic { DIE; if :: CL[ME] && MAY_MOVE_TO_AV -> move_to_av(CL[ME]) :: else fi };
	goto busy;
backbusy:
	close_held();
#ifndef BACKONCE
	goto back;
#endif
busy:
	close_held(); over = false; mine = 0; seen = 0;
	if :: goto again :: goto live fi;
out:
	close_held();
	goto live;

won:
	close_held(); over = false;
	if :: goto completing :: goto releasing :: goto live fi;

completing:
	HOLD(CL[ME], fd[p], 0, cbusy, lost);
	VERIFY(CL[ME], fd[p], cbusy, lost);
#ifndef ANYTOKEN
	atomic { DIE; if :: tok[fd[p]] == p+1 && st[fd[p]] == CLAIMED :: else -> goto lost fi };
#endif
#ifdef REWRITE
	PREPARE(COMPLETED, p+1);
	atomic { DIE; if :: TMP[p] && CL[ME] -> d_step { exchange(CL[ME]) }; check() :: else -> goto cbusy fi };
#else
#ifndef MOVEFIRST
	atomic { DIE; st[fd[p]] = COMPLETED };
#endif
#endif
	atomic { DIE; if :: CL[ME] -> d_step { complete(CL[ME]); CL[ME] = 0; has[p] = 0 }; check() :: else -> goto lost fi };
#ifdef MOVEFIRST
	atomic { DIE; st[fd[p]] = COMPLETED };
#endif
	close_held(); goto live;
cbusy:	close_held(); goto completing;

releasing:
	HOLD(CL[ME], fd[p], (LF >> p) & 1, rbusy, lost);
	VERIFY(CL[ME], fd[p], rbusy, lost);
	atomic { DIE; if :: tok[fd[p]] == p+1 && st[fd[p]] == CLAIMED :: else -> goto lost fi };
#ifdef REWRITE
	PREPARE(AVAIL, 0);
	atomic { DIE; if :: AV -> goto kept :: else fi };       /* TaskExists: the claim stays */
	atomic { DIE; if :: TMP[p] && CL[ME] -> d_step { exchange(CL[ME]); has[p] = 0 }; check() :: else -> goto rbusy fi };
	atomic { DIE; if :: CL[ME] && MAY_MOVE_TO_AV -> move_to_av(CL[ME]); goto released :: else fi };
	atomic { DIE; same = (TMP[p] == fd[p]) };
	if
	:: same -> same = false; atomic { DIE; if :: TMP[p] && CL[ME] -> d_step { exchange(CL[ME]) }; check() :: else fi }
	:: else
	fi;
#else
	atomic { DIE; if :: AV -> goto kept :: else fi };       /* TaskExists: the claim stays */
	atomic { DIE; d_step { st[fd[p]] = AVAIL; tok[fd[p]] = 0; has[p] = 0 } };
	atomic { DIE; if :: CL[ME] && MAY_MOVE_TO_AV -> move_to_av(CL[ME]); goto released :: else fi };
	atomic { DIE; d_step { st[fd[p]] = CLAIMED; tok[fd[p]] = p+1 } };
#endif
kept:	atomic { d_step { has[p] = pub[fd[p]] }; check() };     /* it was told that it still has it */
released:
	close_held(); goto live;
rbusy:	close_held(); goto releasing;

lost:
#ifndef NO_MINE
	assert(taken[p]);                                       /* MINE */
#endif
	close_held();
live:	atomic { mine = 0; seen = 0; DIE }                      /* lives on, or dies here */
	goto stop;
dead:	atomic { has[p] = 0; up[p] = false; mine = 0; seen = 0; same = false; over = false };
	drop_locks();
stop:	done++
}

/* The original ------------------------------------------------------------------------------- */

#ifdef NOTIMEOUT
#define OR_TIMEOUT
#else
#define OR_TIMEOUT :: atomic { holder[lfd[p]] != 0 -> DIE; goto finally }
#endif
proctype orig(byte p) {
	byte mine; bool ok, same, mortal = true;
	atomic { DIE; if :: !AV -> goto stop :: else fi };
	atomic { DIE; open_x() };
	if
	:: atomic { holder[lfd[p]] == 0 -> DIE; holder[lfd[p]] = p+1 }
	OR_TIMEOUT
	fi;
	atomic { DIE; if :: !AV -> goto finally :: else fi };
	atomic { DIE; if :: !AV -> goto finally :: else -> fd[p] = AV fi };     /* open */
	atomic {                                                                /* read */
		DIE;
		if
		:: st[fd[p]] == TORN || st[fd[p]] == CLAIMED -> unlock(fd[p]); goto finally
		:: else -> mine = pub[fd[p]]; unlock(fd[p])
		fi
	}
	atomic {                                                                /* rename(temporary, claimed) */
		DIE; d_step { newinode(); CL[p] = v; st[v] = CLAIMED; pub[v] = mine; v = 0 }; check()
	}
	atomic {                                                                /* unlink */
		DIE;
		if
		:: AV -> AV = 0; ok = true; check()      /* whatever it is by now */
		:: else
		fi
	}
finally:
	atomic { DIE; unlock_x() };
	atomic { DIE; same = (lockpath != 0) };
	if :: same -> same = false; atomic { DIE; lockpath = 0 } :: else fi;
	if :: !ok -> told[p] = true; goto stop :: else -> atomic { has[p] = mine; check() } fi;
	if
	:: atomic { DIE; if :: CL[p] == 0 -> goto stop :: else fi };
	   atomic { DIE; d_step { newinode(); pub[v] = mine; st[v] = COMPLETED; complete(v); has[p] = 0; v = 0 }; check() };
	   atomic { DIE; CL[p] = 0; check() }
	:: skip
	fi;
	goto stop;
dead:	atomic { has[p] = 0; ok = false; same = false };
	drop_locks();
stop:	atomic { mine = 0; done++ }
}

/* Recovery ----------------------------------------------------------------------------------- */

#define STANDS 0
#define HALF_CLAIM 1
#define HALF_COMPLETION 2
#define DEAD_OWNER 3
#define PAST_LEASE 4
#define BIT(q) (1 << (q))

/* what a document in claimed/ comes to; ended: the owners that this pass knows to be dead */
inline judge(s, t) {
	if
	:: s == AVAIL -> verdict = HALF_CLAIM
	:: s == COMPLETED -> verdict = HALF_COMPLETION
	:: s == TORN || (s == CLAIMED && t == 0) -> verdict = STANDS
	:: s == CLAIMED && t ->
		if
#ifdef NOOWNER
		:: true -> verdict = DEAD_OWNER
#else
		:: (ended & BIT(t-1)) || !alive[t-1] -> ended = ended | BIT(t-1); verdict = DEAD_OWNER
		:: !(ended & BIT(t-1)) && alive[t-1] -> verdict = STANDS
#ifdef LEASE
		:: !(ended & BIT(t-1)) && alive[t-1] -> verdict = PAST_LEASE
#endif
#endif
		fi
	fi
}
proctype rec(byte p; bool whole; bool mortal) {
	byte k, mine, seen, verdict, ended, asked; bool same, waits, was_lost;
	do
	:: k < NF -> atomic { DIE; if :: ofile[k] && !alive[k] -> asked = asked | BIT(k) :: else fi; k++ }
	:: else -> break
	od;
	k = 0;
	if :: !whole && !asked -> goto stop :: else fi;
nextclaim:
	if :: k == NP -> goto litter :: else fi;
	atomic { DIE; if :: CL[k] == 0 -> goto done_k :: else -> judge(st[CL[k]], tok[CL[k]]) fi };
	if :: verdict == STANDS -> goto done_k :: else -> was_lost = (verdict >= DEAD_OWNER) fi;
	verdict = 0;
try:
	HOLD(CL[k], fd[p], LF != 0, busy, done_k);
#ifdef ONLOOK
	fl[fd[p]] = 0;
#endif
	VERIFY(CL[k], fd[p], busy, done_k);
	atomic { DIE; judge(st[fd[p]], tok[fd[p]]); mine = pub[fd[p]] };
	if
	:: verdict == STANDS -> goto done_k
	:: verdict == HALF_COMPLETION ->
		atomic { DIE; if :: CL[k] -> d_step { if :: tok[CL[k]] -> has[tok[CL[k]]-1] = 0; taken[tok[CL[k]]-1] = true :: else fi; complete(CL[k]); CL[k] = 0 }; check() :: else fi }
	:: verdict == HALF_CLAIM ->
		atomic {
			DIE;
			if
			:: CL[k] && MAY_MOVE_TO_AV -> move_to_av(CL[k])
			:: CL[k] && !(MAY_MOVE_TO_AV) ->
#ifdef UNLINK
				d_step { CL[k] = 0 }; check()
#else
				goto left
#endif
			:: else
			fi
		}
	:: verdict >= DEAD_OWNER ->
		PREPARE(AVAIL, 0);
#ifndef REPLACE
		atomic { DIE; if :: AV -> goto left :: else fi };
#endif
		atomic {
			DIE;
			if
			:: TMP[p] && CL[k] ->
				d_step {
					m = tok[CL[k]];
#ifndef NO_LIVE
					assert(!m || !up[m-1] || verdict == PAST_LEASE);        /* LIVE */
#endif
					if :: m && verdict == PAST_LEASE -> has[m-1] = 0; taken[m-1] = true :: else fi;
					exchange(CL[k])
				};
				check()
			:: else -> goto busy
			fi
		}
		atomic { DIE; if :: CL[k] && MAY_MOVE_TO_AV -> move_to_av(CL[k]); goto done_k :: else fi };
		atomic { DIE; same = (TMP[p] == fd[p]) };
		if
		:: same -> same = false;
			atomic {
				DIE;
				if :: TMP[p] && CL[k] -> d_step { exchange(CL[k]); if :: up[tok[CL[k]]-1] && tok[CL[k]] -> taken[tok[CL[k]]-1] = true :: else fi }; check()
				:: else fi
			}
		:: else
		fi;
		goto left
	fi;
	goto done_k;
busy:
	close_held(); verdict = 0; mine = 0; seen = 0;
	if
	:: was_lost -> goto try                                 /* another pass may be at it */
	:: true
	fi;
left:
#ifdef FORGETHALF
	if :: was_lost -> waits = true :: else fi;
#else
	waits = true;
#endif
done_k:
	close_held();
	atomic { verdict = 0; mine = 0; seen = 0; was_lost = false; k++ };
	goto nextclaim;

litter:
	k = 0;
	do
	:: whole && k < NX ->                                    /* a temporary file that nobody holds */
		if
		:: k != p && TMP[k] ->
			atomic { DIE; if :: TMP[k] -> fd[p] = TMP[k]; sweeping[k] = sweeping[k] | BIT(p-NP) :: else -> goto swept fi };
			atomic { DIE; if :: fl[fd[p]] == 0 -> fl[fd[p]] = p+1 :: else -> goto swept fi };
			atomic { DIE; if :: sweeping[k] & BIT(p-NP) -> TMP[k] = 0 :: else fi; check() };
swept:			sweeping[k] = sweeping[k] & ~BIT(p-NP);
			if :: fd[p] -> atomic { DIE; unlock(fd[p]) } :: else fi
		:: else
		fi;
		k++
	:: else -> break
	od;
	if
	:: whole && lockpath ->                                  /* a lock file, if x has gone or it is old */
		atomic {
			DIE; n = 0; yes = !AV; m = true;
			do :: n < NX -> m = m && (!lockpath || lfd[n] != lockpath); n++ :: else -> break od;
			if :: yes || m -> yes = false; m = 0; n = 0 :: else -> yes = false; m = 0; n = 0; goto locked fi
		}
		atomic { DIE; if :: lockpath -> lfd[p] = lockpath :: else -> goto locked fi };
		atomic { DIE; if :: holder[lfd[p]] == 0 -> holder[lfd[p]] = p+1 :: else -> goto locked fi };
		atomic { DIE; if :: lockpath == lfd[p] :: else -> goto locked fi };
		atomic { DIE; lockpath = 0 };
locked:		if :: lfd[p] -> atomic { DIE; unlock_x() } :: else fi
	:: else
	fi;
	k = 0;
	do
	:: !waits && k < NF ->
		atomic {
			DIE;
			if
#ifdef FORGETALL
			:: (whole || (asked & BIT(k))) && !alive[k] -> ofile[k] = false
#else
			:: (asked & BIT(k)) && !alive[k] -> ofile[k] = false
#endif
			:: else
			fi;
			k++
		}
	:: else -> break
	od;
	goto stop;
dead:	skip; d_step { n = 0; do :: n < NX -> sweeping[n] = sweeping[n] & ~BIT(p-NP); n++ :: else -> break od; n = 0 };
	drop_locks();
stop:	atomic { k = 0; mine = 0; seen = 0; verdict = 0; ended = 0; asked = 0; same = false; waits = false; was_lost = false; done++ }
}

/* Publication once more ---------------------------------------------------------------------- */

#ifdef REPUB
#define SUPERSEDE if :: AV -> gone[pub[AV]] = true :: else fi
proctype publish(byte p; bool mortal) {
	byte mine = 2; bool same;
#if REPUB <= 2
again:	PREPARE(AVAIL, 0);
#if REPUB == 2
	atomic { DIE; same = (AV != 0) };
#else
	same = true;
#endif
	if
	:: same -> same = false;
		atomic {
			DIE;
#if REPUB == 2
			if :: TMP[p] && AV -> d_step { npub = 2; SUPERSEDE; exchange(AV) }; check() :: else -> goto swept fi
#else
			if :: TMP[p] -> d_step { npub = 2; SUPERSEDE; AV = TMP[p]; TMP[p] = 0 }; check() :: else -> goto swept fi
#endif
		}
	:: else ->
		atomic { DIE; if :: TMP[p] && !AV -> d_step { npub = 2; AV = TMP[p]; TMP[p] = 0 }; check() :: else -> goto swept fi }
	fi;
	close_held(); goto stop;
swept:	close_held(); goto again;
#else
	/* open(.., "w"), then write: to that inode, wherever it is by then */
	atomic {
		DIE;
		if
		:: AV -> fd[p] = AV
		:: else -> d_step { newinode(); AV = v; st[v] = TORN; pub[v] = 2; npub = 2; fd[p] = v; v = 0 }
		fi
#if REPUB == 4
	}
	atomic {
		DIE
#endif
		;
		d_step {
			if :: npub == 1 -> gone[1] = true :: else fi;
			npub = 2; st[fd[p]] = TORN; pub[fd[p]] = 2; own[fd[p]] = false; tok[fd[p]] = 0; ver[fd[p]] = 1
		};
		check()
	}
	atomic { DIE; d_step { st[fd[p]] = AVAIL; tok[fd[p]] = 0; ver[fd[p]] = 2 }; check() };
	atomic { DIE; unlock(fd[p]) };
	goto stop;
#endif
dead:	drop_locks();
stop:	atomic { mine = 0; same = false; done++ }
}
#endif

/* The run ------------------------------------------------------------------------------------ */

#define ALL_ENDED (done == NP+NR+NPUB)
#ifdef SAMEAGENT
#define OWNED(q) ((q) == 0)
#else
#define OWNED(q) ((q) < NF)
#endif

init {
	atomic {
		pub[1] = 1;
#ifndef FOREIGN
		own[1] = true;
#endif
		n = 0;
		do :: n < NF -> up[n] = true; alive[n] = true; ofile[n] = true; run fast(n); n++ :: else -> break od;
		do :: n < NP -> run orig(n); n++ :: else -> break od;
		do
		:: n < NP+NR ->
#if defined(PASS) && PASS == 1
			run rec(n, false, OTHERS_DIE);
#elif defined(PASS)
			run rec(n, true, OTHERS_DIE);
#else
			if :: run rec(n, false, OTHERS_DIE) :: run rec(n, true, OTHERS_DIE) fi;
#endif
			n++
		:: else -> break
		od;
#ifdef REPUB
		run publish(PB, OTHERS_DIE);
#endif
		n = 0
	}
	atomic { ALL_ENDED ->
#ifndef NO_GIVEN
		d_step {
			n = 0;
			do
			:: n < NP -> assert(died || AV || !CL[n] || st[CL[n]] != AVAIL); n++    /* GIVEN */
			:: else -> break
			od;
			n = 0
		};
#endif
		d_step {
			do :: n < NF -> up[n] = false; alive[n] = false; n++ :: else -> break od; n = 0;
			do :: n < NP -> has[n] = 0; n++ :: else -> break od; n = 0
		};
		done = 0;
		run rec(RP, false, false)
	}
	atomic { done == 1 ->
#ifndef NO_NEXT
		d_step {
			n = 0; yes = false;
			do :: n < NF -> yes = yes || ofile[n]; n++ :: else -> break od;
			n = 0;
			do
			:: n < NP -> assert(!OWNED(n) || !CL[n] || st[CL[n]] == TORN || (AV && yes)); n++       /* NEXT */
			:: else -> break
			od;
			n = 0; yes = false
		};
#endif
		run rec(RP, true, false)
	}
	atomic { done == 2 ->
		check();
#ifndef NO_STUCK
		d_step {
			n = 0; yes = (AV || CP);
			do :: n < NP -> yes = yes || (CL[n] && !told[n]); n++ :: else -> break od;
			assert(yes);                                    /* STUCK */
			n = 0;
			do
			:: n < NP -> assert(!OWNED(n) || !CL[n] || st[CL[n]] == TORN || AV); n++        /* STUCK */
			:: else -> break
			od;
			n = 0; yes = false
		}
#endif
	}
}
