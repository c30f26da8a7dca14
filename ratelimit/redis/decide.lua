-- Decides questions about rate limits, each with its hits as one, as ratelimit.Rate.Decide does: the same arithmetic, in
-- whole numbers that a double holds exactly. A key holds where it stands: seconds as a double, and nanoseconds and the
-- fraction (of windows what is counted, upper and lower 32 bits) with 4 bytes each; and what is held of it by leases: until
-- which second, and as a double how many nanoseconds of the rate's time. Gives the time, and what each key held
-- before, of which the caller knows the answers.
--
-- ARGV: the time ('' is this server's), the questions, milliseconds that keys live longer.
--
-- What a script costs is what it makes: a function is made each time that the line is run where it stands. So there is none
-- for what most questions are, which come first, and those that others need are made only where there are others.
local up, pk, floor, byte, call = struct.unpack, struct.pack, math.floor, string.byte, redis.call
local KEYS, G, OWED = KEYS, 1000000000, 2147483648
local FAR = 4611686018 -- seconds: no debt goes further

local ns, nn
if #ARGV[1] > 0 then
  ns, nn = up('>dI4', ARGV[1])
else
  local t = call('TIME')
  ns, nn = t[1] + 0, t[2] * 1000
end
local longer = ARGV[3] + 1000

local none = '\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0'
local keys = call('MGET', unpack(KEYS))
local reply = {pk('>dI4', ns, nn)}
for i = 1, #KEYS do
  local v = keys[i]
  if not v or #v ~= 28 then
    v = none
    keys[i] = v
  end
  reply[i + 1] = v
end

local a, p = ARGV[2], 1
local size = #a

-- Questions of one hit of a GCRA that takes, of a key that holds what is written here: what others do is said below, as
-- functions.
while p <= size and byte(a, p) >= 128 do
  local op, k, cs, cn, cf, ws, wn, wf, den, q = up('>BI2dI4I4dI4I4I4', a, p)
  local s, n, f, u, r = ns, nn, 0, 0, 0
  local v, s0, n0, f0, r0 = keys[k], 0, 0, 0, 0
  if v ~= none then
    s0, n0, f0, u, r0 = up('>dI4I4I4d', v)
    if not (s0 >= 0 and s0 < 9200000000 and s0 % 1 == 0 and n0 < G and r0 >= 0 and r0 < 1000000000000000 and r0 % 1 == 0) then break end
    if u <= ns or r0 == 0 then
      u, r0 = 0, 0
    else
      local hs, hn = ns + floor(r0 / G), nn + r0 % G
      if hn >= G then hs, hn = hs + 1, hn - G end
      if s0 < hs or s0 == hs and n0 < hn then s0, n0, f0 = hs, hn, 0 end
      r = r0
    end
    if s0 > ns or s0 == ns and n0 >= nn then s, n, f = s0, n0, f0 end
  end
  local fs, fn, owes = ns + ws, nn + wn, f >= OWED -- until where it may go
  if fn >= G then fs, fn = fs + 1, fn - G end
  if owes then f = f - OWED end
  if f >= den or s - ns >= FAR or not owes and (s > fs or s == fs and (n > fn or n == fn and f > wf)) then break end

  local es, en, ef = s + cs, n + cn, f + cf
  if ef >= den then en, ef = en + 1, ef - den end
  if en >= G then es, en = es + 1, en - G end
  if es < fs or es == fs and (en < fn or en == fn and ef <= wf) then s, n, f = es, en, ef end

  if op == 129 then -- as many more as are wished and fit, up to some time beyond full
    local wish, ahead, xs, xn, xf, holds, till, freed
    wish, ahead, xs, xn, xf, holds, till, freed, q = up('>dddI4I4BI4d', a, q)
    if u > 0 and u == till then
      r = r - freed
      if r <= 0 then u, r = 0, 0 end
    end
    local bs, bn = fs, fn + ahead
    if bn >= G then bs, bn = bs + 1, bn - G end
    local m = floor(((bs - s) * G + bn - n) / (xs * G + xn + xf / den)) + 1 -- or one or two less
    if m > wish then m = wish end
    while m > 0 do
      local tf = xf * m
      local tn = xn * m + floor(tf / den)
      local ts = xs * m + floor(tn / G)
      tn, tf = tn % G, tf % den
      es, en, ef = s + ts, n + tn, f + tf
      if ef >= den then en, ef = en + 1, ef - den end
      if en >= G then es, en = es + 1, en - G end
      if es < bs or es == bs and (en < bn or en == bn and ef <= wf) then
        s, n, f = es, en, ef
        local all = r + ts * G + tn
        if tf > 0 then all = all + 1 end
        if holds > 0 and all * 2 <= ws * G + wn then
          if u == 0 then u = ns + holds end
          r = all
        end
        break
      end
      m = m - 1
    end
  end

  if s > fs or s == fs and (n > fn or n == fn and f > wf) then f = f + OWED end
  if s ~= s0 or n ~= n0 or f ~= f0 or r ~= r0 then
    v = pk('>dI4I4I4d', s, n, f, u, r)
    local ttl = (s - ns) * 1000 + floor((n - nn) / 1000000)
    if r > 0 and (u - ns) * 1000 > ttl then ttl = (u - ns) * 1000 end
    call('SET', KEYS[k], v, 'PX', string.format('%d', ttl + longer))
    keys[k] = v
  end
  p = q
end

if p > size then return table.concat(reply) end

local function less(as, an, af, bs, bn, bf)
  return as < bs or as == bs and (an < bn or an == bn and af < bf)
end

local function plus(as, an, af, bs, bn, bf, den)
  local s, n, f = as + bs, an + bn, af + bf
  if f >= den then n, f = n + 1, f - den end
  if n >= G then s, n = s + 1, n - G end
  return s, n, f
end

-- load gives where a key stands, and what is held of it.
local function load(k)
  local s, n, f, u, r = up('>dI4I4I4d', keys[k])
  if s < 0 or s >= 9200000000 or s ~= floor(s) or n >= G then return 0, 0, 0, 0, 0 end
  if u <= ns or not (r > 0 and r < 1000000000000000 and r == floor(r)) then return s, n, f, 0, 0 end
  local hs, hn = ns + floor(r / G), nn + r % G
  if hn >= G then hs, hn = hs + 1, hn - G end
  if s < hs or s == hs and n < hn then return hs, hn, 0, u, r end
  return s, n, f, u, r
end

local function save(k, s, n, f, u, r)
  local v = pk('>dI4I4I4d', s, n, f, u, r)
  local ttl = (s - ns) * 1000 + floor((n - nn) / 1000000)
  if r > 0 and (u - ns) * 1000 > ttl then ttl = (u - ns) * 1000 end
  call('SET', KEYS[k], v, 'PX', string.format('%d', ttl + longer))
  keys[k] = v
end

-- GCRA: c is the cost, w how far ahead of now is full.

local caps, capn = plus(ns, nn, 0, FAR, 427387904, 0, 1)

local function start(den, fs, fn, ff, s, n, f)
  if s < ns or s == ns and n < nn then return ns, nn, 0 end
  local charged = f >= OWED
  if charged then f = f - OWED end
  if f >= den then
    if less(caps, capn, 0, s, n, 0) then s, n = caps, capn end
    s, n, f = plus(s, n, 0, 0, 1, 0, 1)
  end
  if not less(fs, fn, ff, s, n, f) then return s, n, f end
  if not charged then return fs, fn, ff end
  if less(caps, capn, 0, s, n, 0) then s, n = caps, capn end
  return s, n, f
end

local function stands(s, n, f, fs, fn, ff)
  if less(fs, fn, ff, s, n, f) then f = f + OWED end
  return s, n, f
end

-- lease takes as many intervals of x as are wished and fit, up to some time beyond full, and holds them.
local function lease(q, s, n, f, u, r, fs, fn, ff, w, den)
  local wish, ahead, xs, xn, xf, holds, till, freed, after = up('>dddI4I4BI4d', a, q)
  if f >= OWED then f = f - OWED end
  if u > 0 and u == till then
    r = r - freed
    if r <= 0 then u, r = 0, 0 end
  end
  local bs, bn, bf = plus(fs, fn, ff, 0, ahead, 0, den)
  local k = floor(((bs - s) * G + bn - n) / (xs * G + xn + xf / den)) + 1 -- or one or two less
  if k > wish then k = wish end
  while k > 0 do
    local tf = xf * k
    local tn = xn * k + floor(tf / den)
    local ts = xs * k + floor(tn / G)
    tn, tf = tn % G, tf % den
    local es, en, ef = plus(s, n, f, ts, tn, tf, den)
    if not less(bs, bn, bf, es, en, ef) then
      s, n, f = es, en, ef
      local all = r + ts * G + tn + (tf > 0 and 1 or 0)
      if holds > 0 and all * 2 <= w then
        if u == 0 then u = ns + holds end
        r = all
      end
      break
    end
    k = k - 1
  end
  s, n, f = stands(s, n, f, fs, fn, ff)
  return s, n, f, u, r, after
end

local band = bit.band
local B = 4294967296
local AHEADN = 427387904
local S, N, F, U, R = {}, {}, {}, {}, {}
for i = 1, #KEYS do
  S[i], N[i], F[i], U[i], R[i] = load(i)
  if S[i] == 0 then S[i], N[i], F[i] = nil, nil, nil end
end

local function minus(as, an, af, bs, bn, bf, den)
  local s, n, f = as - bs, an - bn, af - bf
  if f < 0 then n, f = n - 1, f + den end
  if n < 0 then s, n = s - 1, n + G end
  return s, n, f
end

local function gcra(h, kind, s, n, f)
  local den = h.den
  if kind == 4 then -- gives back what nobody was granted beyond
    local owed = s and f >= OWED and OWED or 0
    if s == h.ts and n == h.tn and f - owed == h.tf then return true, h.cs, h.cn, h.cf + owed end
    return true, s, n, f
  end
  local fs, fn, ff = plus(ns, nn, 0, h.ws, h.wn, h.wf, den)
  s, n, f = start(den, fs, fn, ff, s or 0, n or 0, f or 0)
  if kind == 1 then
    local ds, dn = minus(caps, capn, 0, s, n, 0, 1)
    local es, en, ef = caps, capn, 0
    if less(h.cs, h.cn, 0, ds, dn, 0) then es, en, ef = plus(s, n, f, h.cs, h.cn, h.cf, den) end
    return not less(fs, fn, ff, es, en, ef), stands(es, en, ef, fs, fn, ff)
  elseif kind == 2 then
    local us, un, uf = minus(s, n, f, ns, nn, 0, den)
    local es, en, ef = ns, nn, 0
    if less(h.cs, h.cn, 0, FAR, AHEADN, 0) and not less(us, un, uf, h.cs, h.cn, h.cf) then
      es, en, ef = minus(s, n, f, h.cs, h.cn, h.cf, den)
    end
    return true, stands(es, en, ef, fs, fn, ff)
  elseif kind == 0 then
    local es, en, ef = plus(s, n, f, h.cs, h.cn, h.cf, den)
    if not less(fs, fn, ff, es, en, ef) then
      if h.zero then return true, s, n, f end
      return true, es, en, ef
    end
  end
  return false, stands(s, n, f, fs, fn, ff)
end

-- Windows: a key holds the end of its window and what is counted until then.

local CUMULATED = {0, 31, 59, 90, 120, 151, 181, 212, 243, 273, 304, 334}

local function days(year, month) -- from 1970 until the first of a month
  local y = year - 1
  local d = y * 365 + floor(y / 4) - floor(y / 100) + floor(y / 400) - 719162 + CUMULATED[month]
  if month > 2 and (year % 4 == 0 and year % 100 ~= 0 or year % 400 == 0) then d = d + 1 end
  return d
end

local function calendar(months)
  local today = floor(ns / 86400)
  local year = floor(today / 365.2425) + 1970
  while days(year, 1) > today do year = year - 1 end
  while days(year + 1, 1) <= today do year = year + 1 end
  local month = 12
  while days(year, month) > today do month = month - 1 end
  local at = year * 12 + month - 1
  at = at - at % months + months
  return days(floor(at / 12), at % 12 + 1) * 86400
end

local function fixed(h, kind, s, n, f)
  if kind == 4 then
    if s ~= h.ts or not s then return true, s, n, f end
    local dn, df = h.tn - h.cn, h.tf - h.cf
    if df < 0 then dn, df = dn - 1, df + B end
    n, f = n - dn, f - df
    if f < 0 then n, f = n - 1, f + B end
    if n < 0 or n == 0 and f == 0 then return true end
    return true, s, n, f
  end
  local e = h.months > 0 and calendar(h.months) or ns - ns % h.per + h.per
  h.e = e
  local n0, f0 = 0, 0
  if s == e then
    n0, f0 = n, f
  elseif s and s > ns then -- of another rate
    n0, f0 = n, f
    if less(0, h.wn, h.wf, 0, n0, f0) then n0, f0 = h.wn, h.wf end
  end
  local tn, tf = n0 + h.cn, f0 + h.cf
  if tf >= B then tn, tf = tn + 1, tf - B end
  local ok = not less(0, h.wn, h.wf, 0, tn, tf)
  if kind == 2 then
    ok = true
    if less(0, n0, f0, 0, h.cn, h.cf) then
      n0, f0 = 0, 0
    else
      n0, f0 = n0 - h.cn, f0 - h.cf
      if f0 < 0 then n0, f0 = n0 - 1, f0 + B end
    end
  elseif kind == 1 then
    n0, f0 = tn, tf
    if less(0, 999999999, B - 1, 0, n0, f0) then n0, f0 = 999999999, B - 1 end
  elseif kind == 0 then
    if h.zero then
      ok = less(0, n0, f0, 0, h.wn, h.wf)
    elseif ok then
      n0, f0 = tn, tf
    end
  end
  if n0 == 0 and f0 == 0 then return ok end
  return ok, e, n0, f0
end

-- A lease of a window is no more than a quarter of what is left.
local function leaseFixed(h, s, n, f)
  n, f = n or 0, f or 0
  local ln, lf = h.wn - n, h.wf - f
  if lf < 0 then ln, lf = ln - 1, lf + B end
  if ln < 0 then return s, n, f end
  local k = floor(ln / 4) * B + floor((ln % 4 * B + lf) / 4)
  k = math.min(k, h.wish)
  if k < 1 then return s, n, f end
  f = f + k
  if f >= B then n, f = n + 1, f - B end
  return h.e, n, f
end

local function mul(a, b) -- of two 32 bits
  local low, high = a % 65536 * b, floor(a / 65536) * b
  low = low + high % 65536 * 65536
  return floor(high / 65536) + floor(low / B), low % B
end

local function times(x, h, l) -- x times 64 bits
  local h1, l1 = mul(x, l)
  local h2, l2 = mul(x, h)
  local m = h1 + l2
  return h2 + floor(m / B), m % B, l1
end

-- fits says whether so many more fit beside what both windows count, when rs and rn are left of the one now.
local function fits(h, last, here, n, rs, rn)
  local k = h.limit - here - n
  if k < 0 or last == 0 then return k >= 0 end
  local rh, rl = mul(rs, G)
  rl = rl + rn
  if rl >= B then rh, rl = rh + 1, rl - B end
  local ah, am, al = times(last, rh, rl)
  local bh, bm, bl = times(k, mul(h.per, G))
  return not less(bh, bm, bl, ah, am, al)
end

local function rest(h)
  if nn > 0 then return h.e - ns - 1, G - nn end
  return h.e - ns, 0
end

local MOST = 1999999999

local function split(n, f) return n * 2 + (f >= OWED and 1 or 0), f % OWED end

local function join(last, here) return floor(last / 2), last % 2 * OWED + here end

local function sliding(h, kind, s, n, f)
  local last, here = 0, 0
  if kind == 4 then
    if not s then return true end
    last, here = split(n, f)
    local d = (h.tn - h.cn) * B + h.tf - h.cf
    if s == h.ts then
      here = math.max(0, here - d)
    elseif s == h.ts + h.per then
      last = math.max(0, last - d)
    end
    if last + here == 0 then return true end
    return true, s, join(last, here)
  end
  local e = ns - ns % h.per + h.per
  h.e = e
  if s and s > ns then
    last, here = split(n, f)
    last, here = math.min(last, MOST), math.min(here, MOST)
    if s == e then
      last, here = here, 0
    elseif s ~= e + h.per then
      last, here = math.min(last, h.limit), math.min(here, h.limit)
    end
  end
  local ok = true
  if kind == 2 then
    local part = math.min(h.c, here)
    here, last = here - part, last - math.min(h.c - part, last)
  elseif kind == 1 then
    ok = fits(h, last, here, h.c, rest(h))
    here = math.min(here + math.min(h.c, MOST), MOST)
  elseif kind == 0 then
    ok = fits(h, last, here, math.max(h.c, 1), rest(h))
    if ok then here = here + h.c end
  end
  if last + here == 0 then return ok end
  return ok, e + h.per, join(last, here)
end

-- Where little is left, a lease is what will fit a little later.
local function leaseSliding(h, s, n, f)
  local last, here = 0, 0
  if s then last, here = split(n, f) end
  local rs, rn = rest(h)
  local part = 4
  if not fits(h, last, here, 4, rs, rn) then
    part, rn = 1, rn - h.ahead
    if rn < 0 then rs, rn = rs - 1, rn + G end
    if rs < 0 or rs == 0 and rn < 1 then rs, rn = 0, 1 end
  end
  local k, m = 0, 1
  while m * 2 <= h.wish do m = m * 2 end
  while m >= 1 do
    if k + m <= h.wish and fits(h, last, here, (k + m) * part, rs, rn) then k = k + m end
    m = m / 2
  end
  if k < 1 then return s, n, f end
  return h.e + h.per, join(last, math.min(here + k, MOST))
end

local run = {[0] = gcra, sliding, fixed}
local leases = {leaseSliding, leaseFixed}

local function decide(h, kind)
  local k = h.key
  if k == 0 then return h.allowed end -- decided elsewhere
  h.s, h.n, h.f = S[k], N[k], F[k]
  local ok
  ok, S[k], N[k], F[k] = run[h.alg](h, kind, h.s, h.n, h.f)
  return ok
end

local function read()
  local h = {}
  local op, flags = byte(a, p, p + 1)
  if op >= 128 then -- of a key that was not as above
    op, flags, p = 0, op == 129 and 12 or 4, p - 1
  end
  h.key, p = up('>I2', a, p + 2)
  h.alg, h.kind = floor(op / 8), op % 8
  h.shadow, h.quota, h.last = band(flags, 1) > 0, band(flags, 2) > 0, band(flags, 4) > 0
  h.zero, h.allowed = band(flags, 16) > 0, band(flags, 32) > 0
  if h.key == 0 then return h end
  if h.kind == 4 then
    h.cs, h.cn, h.cf, h.ts, h.tn, h.tf, h.per, p = up('>dI4I4dI4I4d', a, p)
    return h
  end
  if h.alg == 0 then
    h.cs, h.cn, h.cf, h.ws, h.wn, h.wf, h.den, p = up('>dI4I4dI4I4I4', a, p)
  elseif h.alg == 1 then
    h.c, h.limit, h.per, p = up('>ddd', a, p)
  else
    h.cn, h.cf, h.wn, h.wf, h.per, h.months, p = up('>I4I4I4I4dI4', a, p)
  end
  if band(flags, 8) > 0 then
    if h.alg == 0 then
      h.lease, p = p, p + 45
    else
      h.wish, h.ahead, p = up('>dd', a, p)
    end
  end
  return h
end

while p <= size do
  local hits, pass, quota, left = {}, true, false, false
  repeat
    local h = read()
    local ok = decide(h, h.kind) or h.shadow
    if not ok and not h.quota then pass = false end
    quota = quota or h.quota
    left = left or h.quota and ok
    hits[#hits + 1] = h
  until h.last
  pass = pass and (left or not quota)
  if not pass and #hits > 1 then
    for i = #hits, 1, -1 do
      local h = hits[i]
      if h.key > 0 then S[h.key], N[h.key], F[h.key] = h.s, h.n, h.f end
    end
    for _, h in ipairs(hits) do
      if h.kind ~= 0 and h.kind ~= 3 then decide(h, h.kind) end
    end
    for _, h in ipairs(hits) do
      if h.kind == 0 or h.kind == 3 then decide(h, 3) end -- as it stands without
    end
  end
  for _, h in ipairs(hits) do
    local k = h.key
    if h.lease then
      local fs, fn, ff = plus(ns, nn, 0, h.ws, h.wn, h.wf, h.den)
      S[k], N[k], F[k], U[k], R[k] = lease(h.lease, S[k], N[k], F[k], U[k], R[k], fs, fn, ff, h.ws * G + h.wn, h.den)
    elseif h.wish then
      S[k], N[k], F[k] = leases[h.alg](h, S[k], N[k], F[k])
    end
  end
end

for i = 1, #KEYS do
  local s, n, f, u, r = S[i], N[i], F[i], U[i], R[i]
  if s and (s > ns or s == ns and n > nn or r > 0) then
    local s0, n0, f0, _, r0 = load(i)
    if s ~= s0 or n ~= n0 or f ~= f0 or r ~= r0 then save(i, s, n, f, u, r) end
  elseif keys[i] ~= none then
    call('DEL', KEYS[i])
  end
end
return table.concat(reply)
