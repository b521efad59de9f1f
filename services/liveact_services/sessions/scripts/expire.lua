-- Ends a session whose time has passed. One that nobody holds, though it is not detached, was let down by its gateway: it failed.
-- KEYS  session, lease, tenant's places, due, tenant's streams
-- ARGV  id, now, due time of an ended record, ended states (' A B ')
-- -> EXPIRED | FAILED | KEPT (its time was put off meanwhile, or it has ended)
local state, expires = unpack(redis.call('HMGET', KEYS[1], 'state', 'expire_time'))
if not state or string.find(ARGV[4], ' ' .. state .. ' ', 1, true) then
  return {'KEPT'}
end
if tonumber(expires) > tonumber(ARGV[2]) then
  return {'KEPT'}
end
local ending = 'EXPIRED'
if state ~= 'DETACHED' and redis.call('EXISTS', KEYS[2]) == 0 then
  ending = 'FAILED'
end
redis.call('HSET', KEYS[1], 'state', ending, 'update_time', ARGV[2])
redis.call('DEL', KEYS[2])
redis.call('ZREM', KEYS[3], ARGV[1])
redis.call('ZREM', KEYS[5], ARGV[1])
redis.call('ZADD', KEYS[4], ARGV[3], ARGV[1])
return {ending}
