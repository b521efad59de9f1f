-- uses tenant
-- Moves a session to another state, if the stored state is among the sources of that state.
-- KEYS  session, lease, tenant's places, due, tenant's streams, tenant's usage
-- ARGV  id, sources (' A B '), '1' if the state ends the session, fencing token ('' for none), due time ('' to keep),
--       frames ('' to keep), '0' if no client is attached any more,
--       field, value, ... (the state and the time of the change among them)
-- -> OK, record | MISSING | STALE | ILLEGAL, state
local state = redis.call('HGET', KEYS[1], 'state')
if not state then
  return {'MISSING'}
end
if ARGV[4] ~= '' and redis.call('GET', KEYS[2]) ~= ARGV[4] then
  return {'STALE'}
end
if not string.find(ARGV[2], ' ' .. state .. ' ', 1, true) then
  return {'ILLEGAL', state}
end
if ARGV[6] ~= '' then
  count(KEYS[6], KEYS[1], ARGV[6])
end
redis.call('HSET', KEYS[1], unpack(ARGV, 8))
if ARGV[3] == '1' then
  redis.call('DEL', KEYS[2])
  redis.call('ZREM', KEYS[3], ARGV[1])
end
if ARGV[3] == '1' or ARGV[7] == '0' then
  redis.call('ZREM', KEYS[5], ARGV[1])
end
if ARGV[5] ~= '' then
  redis.call('ZADD', KEYS[4], ARGV[5], ARGV[1])
end
return {'OK', redis.call('HGETALL', KEYS[1])}
