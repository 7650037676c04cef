#!/bin/sh
# usage: [T=seconds] [TRACE=lines] [MEM=megabytes] run.sh [-DSWITCH ...]
# Checks claim.pml with these switches (explained at its top) and prints one line.
# "exhausted": every state was visited. "PARTIAL": stopped after T seconds or MEM megabytes.
# exit status: 0 exhausted and no violation; 1 a violation; 2 the tools failed; 3 partial
here=$(cd "$(dirname "$0")" && pwd)
dir=$(mktemp -d) && cd "$dir" && cp "$here/claim.pml" . || exit 2
trap 'rm -rf "$dir"' EXIT
{ spin -a "$@" claim.pml && cc -w -DSAFETY -DCOLLAPSE -DMEMLIM="${MEM:-6000}" -o pan pan.c; } >log 2>&1 \
	|| { cat log; exit 2; }
started=$(date +%s)
timeout -s INT "${T:-600}" ./pan -m500000 -w24 >log 2>&1
stopped=$?
seconds=$(($(date +%s) - started))
states=$(sed -n 's/^ *\([0-9.e+]*\) states, stored.*/\1/p' log)
if grep -q 'assertion violated\|invalid end state (' log; then
	line=$(spin -t "$@" claim.pml 2>/dev/null | sed -n 's/.*claim.pml:\([0-9]*\), Error: assertion violated.*/\1/p' | head -n 1)
	found="$(sed -n "${line:-1}s,.*assert.*/\* \([A-Z]*\) \*/.*,\1 violated,p" claim.pml)"
	found=${found:-"violated at line $line"}
	status=1
elif [ $stopped = 0 ] && grep -q 'errors: 0' log && ! grep -q 'Search not completed\|max search depth too small' log; then
	found=exhausted status=0
else
	found=PARTIAL status=3
fi
echo "$* : $found, ${states:-?} states, $seconds s"
if [ -n "$TRACE" ] && [ -f claim.pml.trail ]; then # the steps, without the bookkeeping
	spin -t -p "$@" claim.pml 2>/dev/null | grep -E 'proc .*\((fast|orig|rec|publish):' \
		| grep -E '\[!?\(*(AV|CP|CL|TMP|lockpath|fd|fo|tf|lfd|fl|holder|st\[[^v]|tok\[[^v]|has|up|alive|ofile|taken|verdict|asked|waits|died|m = TMP|told|npub)' \
		| grep -vE 'fd\[n\]|TMP\[n\]|CL\[n\]|\[fl\[v\]|assert' \
		| sed -E 's/^ *[0-9]+:[[:space:]]*//; s/claim.pml:([0-9]+) \(state [0-9]+\)/line \1/' | tail -n "$TRACE"
fi
exit $status
