-- Stores an avatar.
-- KEYS  avatar, its image, tenant's avatars
-- ARGV  id, image, field, value, ...
-- -> OK
redis.call('HSET', KEYS[1], unpack(ARGV, 3))
redis.call('SET', KEYS[2], ARGV[2])
redis.call('SADD', KEYS[3], ARGV[1])
return {'OK'}
