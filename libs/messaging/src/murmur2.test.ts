import { describe, expect, it } from 'vitest';
import { murmur2, partitionOf } from './murmur2.ts';

describe('murmur2', () => {
  // org.apache.kafka.common.utils.UtilsTest#testMurmur2
  it.each([
    ['21', -973932308],
    ['foobar', -790332482],
    ['a-little-bit-long-string', -985981536],
    ['a-little-bit-longer-string', -1486304829],
    ['lkjh234lh9fiuh90y23oiuhsafujhadof229phr9h19h89h8', -58897971],
    ['abc', 479470107],
  ])("agrees with Kafka's Java client on %s", (key, hash) => {
    expect(murmur2(Buffer.from(key))).toBe(hash);
  });

  it('reads keys as UTF-8 and never gives a negative partition', () => {
    for (const key of ['', 'ü', '日本', '🚋:1', 'acme:0190', 'x'.repeat(1_000)]) {
      const partition = partitionOf(key, 6);
      expect(partition).toBeGreaterThanOrEqual(0);
      expect(partition).toBeLessThan(6);
    }
  });
});
