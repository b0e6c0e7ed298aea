import { describe, expect, it } from 'vitest';
import { PartitionOffsets } from './partition-offsets.ts';

describe('PartitionOffsets', () => {
  it('has a pending commit only for what is assigned, finished and not committed', () => {
    const offsets = new PartitionOffsets();
    offsets.assign([0, 1]);
    offsets.fetched(0, 10n, 20n);
    offsets.finish(0, 12n);
    offsets.finish(7, 99n);
    expect(offsets.pending()).toEqual([{ partition: 0, offset: 12n }]);
    offsets.committed([{ partition: 0, offset: 12n }]);
    expect(offsets.pending()).toEqual([]);
    expect(offsets.lag()).toBe(8);
  });

  it('drops pending commits with the generation, also of a partition that comes back', () => {
    const offsets = new PartitionOffsets();
    offsets.assign([0, 1]);
    offsets.finish(0, 5n);
    offsets.assign([0]);
    expect(offsets.pending()).toEqual([]);
    offsets.revokeAll();
    offsets.finish(0, 6n);
    expect(offsets.pending()).toEqual([]);
  });

  it('a seek forgets what was finished', () => {
    const offsets = new PartitionOffsets();
    offsets.assign([0]);
    offsets.fetched(0, 0n, 9n);
    offsets.finish(0, 9n);
    offsets.forget(0);
    expect(offsets.pending()).toEqual([]);
    offsets.finish(0, 3n);
    expect(offsets.pending()).toEqual([{ partition: 0, offset: 3n }]);
  });
});
