/** Whether one stream id comes before another; none, before all. */
const below = `
local function placeOf(id)
  local epoch, position = string.match(id or '', '^(%d+)-(%d+)$')
  return tonumber(epoch or '-1'), tonumber(position or '-1')
end
local function below(one, other)
  local epoch, position = placeOf(one)
  local otherEpoch, otherPosition = placeOf(other)
  return epoch < otherEpoch or (epoch == otherEpoch and position < otherPosition)
end
`;

/**
 * Appends a batch of one partition's events to the streams of their sessions: the only place where stream entries are
 * made. One call a batch, so that all of it is of one instant, and the position reached stands with it.
 *
 * Keys: boot, reached; then two for each session: entries, state. Arguments: partition, the boot value that must stand
 * there, TTL in seconds, length bound, bytes that a wake-up may carry, the position reached ('' for none), the position
 * that must have been reached before ('' for none); then for each session its channel, the number of its events, and nine for each event: epoch, position, kind, type, turn, attempt, at,
 * code points, and for a piece of text its JSON without `at` and `text`, a line feed, and the text; for any other event
 * its JSON.
 *
 * Kinds: `d` delta, `t` thinking, `r` turn.resumed (at = keep_chars), `s` turn.started, `x` the end of a turn that ran,
 * `c` turn.cancelled, of one that ran or waited, `q` of a turn that has not run, `e` any other.
 *
 * For each event of a session, in order:
 * - an id not above the last one is a redelivery: ignored;
 * - text of an attempt below the one shown belongs to a holder that lost its lease, as does text of an ended turn: dropped.
 *     holder A (attempt 1) stalls → B takes over: turn.resumed (attempt 2) → A wakes and sends → its records are in the
 *     log, behind B's, and are not shown.
 *   Of any other event Postgres has decided that (gateway.store_events), so that stream and refill show the same: what
 *   comes here is kept, and only does not become what the stream knows of its turn;
 * - only what a turn's holder sends while it runs (`s`, `r`, text) makes it the open one. Others say things of other turns
 *   in the middle of its text, and none of them may touch it: its later text would be that of an ended turn.
 *     T1 runs → T2 and T3 wait behind it → T2 is cancelled → T1's next delta
 *   The end of another turn is remembered, so that no late text of it is shown; not that of one that never ran (a cancel
 *   while the state is there), for sixteen of them would push out one that did;
 * - of a piece that begins below the length shown, the part below is cut: a record that the producer sent twice;
 * - `p` keeps the id of the entry before it, empty when that is not known (a reader then asks Postgres).
 * The position reached never goes back: an owner that stood still over a rebalance appends its batch after the next one.
 * A wake-up goes out even when nothing was added: the reader that missed it the first time gets it now. It is the last
 * id; or, where the entries added are few bytes and the one before them is known, JSON: [id before, [[id, type, body,
 * at?], …]], so that a reader that stands there need not come and read them.
 *
 * Answers the number of entries added, or -1 when nothing was appended: the boot value differs, for Redis was emptied; or
 * it has not reached what it had, for it came back with old data (a snapshot, a log without its end, another server).
 */
export const appendScript = {
  lua: `${below}
local boot = redis.call('HGET', KEYS[1], ARGV[1])
if boot ~= ARGV[2] or below(redis.call('HGET', KEYS[2], ARGV[1]), ARGV[7]) then return -1 end

local function skip(text, count)
  local seen = 0
  for i = 1, #text do
    local byte = string.byte(text, i)
    if byte < 128 or byte > 191 then
      if seen == count then return string.sub(text, i) end
      seen = seen + 1
    end
  end
  return ''
end

local function append(entriesKey, stateKey, channel, from, to)
  local state = redis.call('HMGET', stateKey, 'epoch', 'position', 'turn', 'attempt', 'length', 'thinking', 'ended')
  local epochText, positionText = state[1], state[2]
  if not positionText then
    -- The state can be evicted without the entries: an id below theirs would be refused by XADD.
    local newest = redis.call('XREVRANGE', entriesKey, '+', '-', 'COUNT', 1)
    if newest[1] then epochText, positionText = string.match(newest[1][1], '^(%d+)-(%d+)$') end
  end
  local epoch, position = tonumber(epochText or '-1'), tonumber(positionText or '-1')
  local turn, attempt = state[3] or '', tonumber(state[4] or '0')
  local shown = { d = tonumber(state[5] or '-1'), t = tonumber(state[6] or '-1') }
  local ended = state[7] or ''
  local before, carried, room = '', {}, tonumber(ARGV[5])
  local added = 0

  local function finish(id)
    if id == '' or string.find(ended, id, 1, true) then return end
    ended = string.sub(id .. ' ' .. ended, 1, 37 * 16)
  end

  for i = from, to, 9 do
    local e, p, kind, id, a = tonumber(ARGV[i]), tonumber(ARGV[i + 1]), ARGV[i + 2], ARGV[i + 4], tonumber(ARGV[i + 5])
    local at, points, body = tonumber(ARGV[i + 6]), tonumber(ARGV[i + 7]), ARGV[i + 8]
    if e > epoch or (e == epoch and p > position) then
      local keep, late, piece = true, false, kind == 'd' or kind == 't'
      if kind == 'q' then
        keep = true
      elseif id ~= turn and string.find(ended, id, 1, true) then
        keep = not piece
      elseif id ~= turn and (kind == 'x' or kind == 'c') then
        if kind == 'x' or not (state[2] or added > 0) then finish(id) end
      elseif id ~= turn and turn ~= '' and kind == 'e' then
        keep = true
      else
        if id ~= turn then
          finish(turn)
          turn, attempt = id, a
          shown.d, shown.t = -1, -1
        elseif a < attempt and kind ~= 'x' and kind ~= 'c' then
          keep, late = not piece, true
        elseif a > attempt then
          attempt = a
          shown.d, shown.t = -1, -1
        end
        if not late then
          if kind == 's' then shown.d, shown.t = 0, 0
          elseif kind == 'r' then shown.d, shown.t = at, -1
          elseif kind == 'x' or kind == 'c' then
            finish(id)
            turn, attempt = '', 0
            shown.d, shown.t = -1, -1
          elseif piece then
            local cut = math.max(shown[kind] - at, 0)
            if cut > 0 and cut >= points then
              keep = false
            else
              if cut > 0 then
                local line = string.find(body, '\\n', 1, true)
                body = string.sub(body, 1, line) .. skip(string.sub(body, line + 1), cut)
              end
              shown[kind] = at + points
              at = at + cut
            end
          end
        end
      end
      if keep then
        local prev = ''
        if positionText then prev = epochText .. '-' .. positionText end
        local entry = ARGV[i] .. '-' .. ARGV[i + 1]
        if piece then
          local begin = string.format('%.0f', at)
          redis.call('XADD', entriesKey, 'MAXLEN', '~', ARGV[4], entry, 'e', ARGV[i + 3], 'p', prev, 'a', begin, 'd', body)
          carried[added + 1] = { entry, ARGV[i + 3], body, begin }
        else
          redis.call('XADD', entriesKey, 'MAXLEN', '~', ARGV[4], entry, 'e', ARGV[i + 3], 'p', prev, 'd', body)
          carried[added + 1] = { entry, ARGV[i + 3], body }
        end
        if added == 0 then before = prev end
        room = room - #body - 64
        epochText, positionText, epoch, position = ARGV[i], ARGV[i + 1], e, p
        added = added + 1
      end
    end
  end

  if added > 0 then
    redis.call('HSET', stateKey, 'epoch', epochText, 'position', positionText, 'turn', turn, 'attempt', attempt,
      'length', shown.d, 'thinking', shown.t, 'ended', ended)
  end
  redis.call('EXPIRE', entriesKey, ARGV[3])
  redis.call('EXPIRE', stateKey, ARGV[3])
  local wake = positionText and (epochText .. '-' .. positionText) or ''
  if added > 0 and before ~= '' and room >= 0 then wake = cjson.encode({ before, carried }) end
  redis.call('PUBLISH', channel, wake)
  return added
end

local at, added = 8, 0
for key = 3, #KEYS, 2 do
  local to = at + 1 + 9 * tonumber(ARGV[at + 1])
  added = added + append(KEYS[key], KEYS[key + 1], ARGV[at], at + 2, to)
  at = to + 1
end
if below(redis.call('HGET', KEYS[2], ARGV[1]), ARGV[6]) then redis.call('HSET', KEYS[2], ARGV[1], ARGV[6]) end
return added
`,
} as const;

/**
 * Reads a session's entries after a position, and what is needed to know whether they are all.
 *
 * Keys: entries, state, boot, reached. Arguments: partition, the id to read after, how many and about how many bytes at
 * most (a page of large entries must come within the command timeout).
 * Answers {boot value or '', reached or '', last id or '', entries, 1 when there may be more}, all of one instant.
 */
export const readScript = {
  keys: 4,
  lua: `
local boot = redis.call('HGET', KEYS[3], ARGV[1]) or ''
local reached = redis.call('HGET', KEYS[4], ARGV[1]) or ''
local state = redis.call('HMGET', KEYS[2], 'epoch', 'position')
local last = ''
if state[1] then last = state[1] .. '-' .. state[2] end
local after, left, room = ARGV[2], tonumber(ARGV[3]), tonumber(ARGV[4])
local entries, more = {}, 1
while left > 0 and room > 0 do
  local want = math.min(left, 16)
  local some = redis.call('XRANGE', KEYS[1], '(' .. after, '+', 'COUNT', want)
  for _, entry in ipairs(some) do
    entries[#entries + 1] = entry
    after = entry[1]
    for _, field in ipairs(entry[2]) do room = room - #field end
  end
  left = left - want
  if #some < want then
    more = 0
    break
  end
end
return { boot, reached, last, entries, more }
`,
} as const;

/**
 * Sets a partition's boot value if it is still the one expected ('' for none), and with it the position reached: '' for
 * none, which leaves it; otherwise it never goes back, or is taken away ('-') until the rebuild that begins sets it anew.
 * Keys: boot, reached. Arguments: partition, from, to, reached. Answers 1 when it was.
 */
export const markBootScript = {
  keys: 2,
  lua: `${below}
local now = redis.call('HGET', KEYS[1], ARGV[1]) or ''
if now ~= ARGV[2] then return 0 end
redis.call('HSET', KEYS[1], ARGV[1], ARGV[3])
if ARGV[4] == '-' then redis.call('HDEL', KEYS[2], ARGV[1])
elseif below(redis.call('HGET', KEYS[2], ARGV[1]), ARGV[4]) then redis.call('HSET', KEYS[2], ARGV[1], ARGV[4]) end
return 1
`,
} as const;
