//! The bodies of the functions that are added to a module.

use wasm_encoder::{BlockType, Function, InstructionSink, ValType};

use super::{Added, BITS};

impl Added {
    pub(super) fn create(&self) -> Function {
        let mut function = Function::new([]);
        let (context, root, count) = (0, 1, 2);
        let mut code = function.instructions();
        code.loop_(BlockType::Empty);
        let [_, _, _, create, ..] = self.callbacks;
        if let Some((create, _)) = create {
            self.note(&mut code, context, 3);
            code.local_get(context).local_get(root).call(create);
        }
        increment(&mut code, context);
        increment(&mut code, root);
        code.local_get(count).i32_const(1).i32_sub().local_tee(count).br_if(0).end();
        self.note_nothing(&mut code);
        code.end();
        function
    }

    pub(super) fn end(&self) -> Function {
        let mut function = Function::new([(1, ValType::I32)]);
        let (context, count, ended) = (0, 1, 2);
        let mut code = function.instructions();
        code.loop_(BlockType::Empty);
        let [done, log, delete, ..] = self.callbacks;
        if let Some((done, _)) = done {
            self.note(&mut code, context, 0);
            code.local_get(context).call(done).i32_eqz().if_(BlockType::Empty);
            self.note_nothing(&mut code);
            code.local_get(ended).return_().end();
        }
        for (number, callback) in (1..).zip([log, delete]) {
            if let Some((callback, _)) = callback {
                self.note(&mut code, context, number);
                code.local_get(context).call(callback);
            }
        }
        increment(&mut code, context);
        increment(&mut code, ended);
        code.local_get(ended).local_get(count).i32_lt_u().br_if(0).end();
        self.note_nothing(&mut code);
        code.local_get(ended).end();
        function
    }

    /// Relays to the callback that is number `at` of [`CALLBACKS`](super::CALLBACKS).
    pub(super) fn relay(&self, at: usize) -> Function {
        let (breaks, answer) = (self.globals + 1, self.globals + 2);
        let mut function = Function::new([(2, ValType::I32)]);
        let (context, step, count, a, b, ran, action) = (0, 1, 2, 3, 4, 5, 6);
        let mut code = function.instructions();
        code.i32_const(0).global_set(breaks).loop_(BlockType::Empty);
        if let (Some((callback, params)), Ok(number)) = (self.callbacks[at], i64::try_from(at)) {
            self.note(&mut code, context, number);
            code.local_get(context).local_get(a);
            if params == 3 {
                code.local_get(b);
            }
            code.call(callback).local_set(action);
        }
        increment(&mut code, ran);
        code.local_get(action).if_(BlockType::Empty);
        self.note_nothing(&mut code);
        code.local_get(action).global_set(answer).i32_const(0).local_get(ran).i32_sub().return_().end();
        code.global_get(breaks).i32_eqz().local_get(ran).local_get(count).i32_lt_u().i32_and();
        code.if_(BlockType::Empty).local_get(context).local_get(step).i32_add().local_set(context);
        code.br(1).end().end();
        self.note_nothing(&mut code);
        code.local_get(ran).end();
        function
    }

    /// Callback `number` of the context in that local is next: [`Place::raw`](super::Place::raw).
    fn note(&self, code: &mut InstructionSink<'_>, context: u32, number: i64) {
        code.local_get(context).i64_extend_i32_u().i64_const(BITS.into()).i64_shl();
        code.i64_const(number).i64_or().global_set(self.globals);
    }

    fn note_nothing(&self, code: &mut InstructionSink<'_>) {
        code.i64_const(0).global_set(self.globals);
    }
}

fn increment(code: &mut InstructionSink<'_>, local: u32) {
    code.local_get(local).i32_const(1).i32_add().local_set(local);
}
