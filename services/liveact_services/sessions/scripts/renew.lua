-- Prolongs a lease, or with 0 milliseconds gives it back.
-- KEYS  lease
-- ARGV  fencing token, milliseconds
-- -> OK | STALE
if redis.call('GET', KEYS[1]) ~= ARGV[1] then
  return {'STALE'}
end
redis.call('PEXPIRE', KEYS[1], ARGV[2])
return {'OK'}
