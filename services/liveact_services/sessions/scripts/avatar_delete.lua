-- Forgets a tenant's avatar.
-- KEYS  avatar, its image, tenant's avatars
-- ARGV  id
-- -> OK | MISSING (also where it is another tenant's)
if redis.call('SREM', KEYS[3], ARGV[1]) == 0 then
  return {'MISSING'}
end
redis.call('DEL', KEYS[1], KEYS[2])
return {'OK'}
