/** A process for fail-point.test.ts: passes a fail point again and again and writes down each pass, before and behind. */
import { writeSync } from 'node:fs';
import { armFailPoint, failPoint } from '../src/fail-point.ts';

armFailPoint(process.argv[2]);
setInterval(() => writeSync(1, 'timer\n'), 1);
for (let pass = 1; pass <= 5; pass += 1) {
  writeSync(1, `before ${pass}\n`);
  // Already due when the point is reached: what a dying process must not get to any more.
  void Promise.resolve().then(() => writeSync(1, `microtask ${pass}\n`));
  failPoint('call.done');
  writeSync(1, `behind ${pass}\n`);
}
process.exit(0);
