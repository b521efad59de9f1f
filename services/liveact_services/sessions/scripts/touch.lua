-- The lease holder's report of progress.
-- KEYS  session, lease, due
-- ARGV  id, fencing token, due time ('' to keep), field, value, ...
-- -> OK | MISSING | STALE
if redis.call('EXISTS', KEYS[1]) == 0 then
  return {'MISSING'}
end
if redis.call('GET', KEYS[2]) ~= ARGV[2] then
  return {'STALE'}
end
redis.call('HSET', KEYS[1], unpack(ARGV, 4))
if ARGV[3] ~= '' then
  redis.call('ZADD', KEYS[3], ARGV[3], ARGV[1])
end
return {'OK'}
