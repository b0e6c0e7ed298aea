import '@signalbox/telemetry/register';
import { runMain } from '@signalbox/lifecycle/lifecycle';
import { delegationWorker } from './delegation-worker.ts';
import { builtinHandlers } from './handlers/builtin-handlers.ts';

await runMain((lifecycle) => delegationWorker(lifecycle, builtinHandlers));
