import { conformance } from '../test/conformance/conformance.ts';
import { kafkajsBus } from './kafkajs-bus.ts';

conformance.group('kafkajs', kafkajsBus);
