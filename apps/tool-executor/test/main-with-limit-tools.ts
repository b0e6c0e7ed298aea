import '@signalbox/telemetry/register';
import { runMain } from '@signalbox/lifecycle/lifecycle';
import { toolExecutor } from '../src/tool-executor.ts';

// The service as it is, with tools that reach the limits.
await runMain((lifecycle) => toolExecutor(lifecycle, new URL('./limit-tools.ts', import.meta.url).href));
