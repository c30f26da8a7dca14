package redis

// Most keys that are asked about are ones of which Redis has nothing: new ones, and those that nobody used for a while. What
// the script would make of such a key is known here too. So it is written, unless it is there, by a plain SET, which costs Redis
// a fifth of what the script does. It is decided by the latest that Redis's clock may show when the question is sent, so between when it
// is asked and when it is answered, as by the script; who asks next finds the key as if the script had been there. If the key
// is there after all, the script is asked, with the next flight.

// fresh is a key that is to be made, with the question about it.
type fresh struct {
	q     *question
	at    int64 // when that was decided, by Redis's clock
	stand stand // what the key is to hold

	there bool // it was not made, for it is there
	err   error
}

// decideFresh decides a question at now as of a key of which there is nothing.
func (q *question) decideFresh(now int64) fresh {
	at := [1]stand{}
	q.parts[0].index = 1
	q.decide(now, at[:])
	return fresh{q: q, at: now, stand: at[0]}
}

// doubt has the script decide a question that was decided as of a fresh key.
func (q *question) doubt() { q.fresh, q.parts[0].held = false, hold{} }

// life is for how many milliseconds the key is to be there, as decide.lua has it.
func (k *fresh) life() int64 {
	ms := (k.stand.at.NS - k.at) / 1e6
	if k.stand.held.ns > 0 {
		ms = max(ms, (k.stand.held.until-k.at/second)*1000)
	}
	return ms + 1000
}

// luck tells whether keys that are taken for fresh are, as a rule: two out of three. If replicas share most of them, they are
// not, and a question that turns to the script only then costs more.
type luck struct {
	score int
	tried int // since it was bad
}

const (
	luckBounds = 64
	luckEvery  = 16 // questions of which one is tried while luck is bad
)

func (k *luck) good() bool {
	if k.score >= 0 {
		return true
	}
	k.tried++
	return k.tried%luckEvery == 0
}

func (k *luck) note(there bool) {
	if there {
		k.score = max(k.score-2, -luckBounds)
	} else {
		k.score = min(k.score+1, luckBounds)
	}
}
