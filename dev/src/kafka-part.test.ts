import { expect, test } from 'vitest';
import { serverProperties } from './kafka-part.ts';

test('the broker makes no topic by itself, gives a first consumer its partitions at once, and stays on this machine', () => {
  const lines = serverProperties('/data/kafka', 9092, 9093, false).split('\n');
  expect(lines).toContain('auto.create.topics.enable=false');
  expect(lines).toContain('group.initial.rebalance.delay.ms=0');
  expect(lines).toContain('listeners=PLAINTEXT://127.0.0.1:9092,CONTROLLER://127.0.0.1:9093');
  expect(lines).toContain('log.dirs=/data/kafka/data');
});
